"""Made-up inputs of four kinds, most of them valid ones that are changed a little."""

from __future__ import annotations

import json

import malformed
import yaml
from hypothesis import strategies as st

from cached_ds.run.arguments import _parser
from helpers.repo import ROOT
from lab.forking import Attempt

# Flags that start work outside the run's folder, that ask for as much of the machine as their number says, or that
# compile for minutes.
ELSEWHERE = {"output_dir", "cache_dir", "offload_folder", "push_to_hub", "token", "local_rank", "help", "h"}
HUNGRY = {"dataloader_num_workers", "preprocessing_num_workers", "pad_to_multiple_of", "vocab_size"}
SLOW = {"torch_compile", "torch_compile_backend", "torch_compile_mode", "compile", "num_train_epochs", "max_steps"}
ACTIONS = {action.dest: action for action in _parser()._actions if action.dest not in ELSEWHERE | HUNGRY | SLOW}
NAMES = sorted(name for name in ACTIONS if not name.startswith("hub_"))
SEEDS = sorted({value for values in (malformed.NUMBERS | malformed.WORDS).values() for value in values})

numbers = st.one_of(st.integers(-3, 40), st.floats(), st.sampled_from([2**31, 2**63, -(2**63), 10**30]))
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), max_size=12)
leaves = st.one_of(st.none(), st.booleans(), numbers, words)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))


@st.composite
def flag_value(draw, name):
    """A value for a flag: four times out of five one of its kind, otherwise any other."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.one_of(st.sampled_from(SEEDS), numbers.map(str), words, values.map(json.dumps)))
    action = ACTIONS[name]
    if action.choices:
        return draw(st.sampled_from([str(getattr(choice, "value", choice)) for choice in action.choices]))
    kinds = {int: st.integers(-1, 40), float: st.one_of(st.floats(0, 1), st.integers(0, 40)), str: words}
    return str(draw(kinds.get(action.type, st.booleans())))


@st.composite
def flags(draw):
    """One to three flags."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    return Attempt(flags={name: draw(flag_value(name)) for name in names})


@st.composite
def recipes(draw):
    """A recipe with a few settings, in which some bytes may be wrong."""
    ending = draw(st.sampled_from(["yaml", "json"]))
    names = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
    settings = {name: draw(flag_value(name)) for name in names} | draw(st.dictionaries(words, values, max_size=1))
    text = yaml.safe_dump(settings, allow_unicode=True) if ending == "yaml" else json.dumps(settings)
    return Attempt(files={f"r.{ending}": draw(damaged(text.encode()))}, recipe=f"r.{ending}")


@st.composite
def deepspeed_files(draw):
    """A file of ds_configs/ in which one value is another, or a key was added or is missing."""
    config = json.loads((ROOT / "ds_configs" / f"zero{draw(st.sampled_from('123'))}.json").read_text(encoding="utf-8"))
    section = config
    while nested := [key for key, value in section.items() if isinstance(value, dict)]:
        if draw(st.booleans()):
            break
        section = section[draw(st.sampled_from(sorted(nested)))]
    known = [*section, *malformed.DEEPSPEED] if section is config else [*section]
    name = draw(st.one_of(st.sampled_from(sorted(known)), st.sampled_from(sorted(known)), words))
    like = {bool: st.booleans(), int: st.integers(0, 2**31), float: st.floats(0, 10)}
    if draw(st.integers(0, 5)):
        section[name] = draw(st.one_of(like.get(type(section.get(name)), values), values))
    else:
        section.pop(name, None)
    return malformed.deepspeed(draw(damaged(json.dumps(config).encode())))


@st.composite
def documents(draw):
    """A file of documents with any columns and values, in which some bytes may be wrong."""
    ending = draw(st.sampled_from(["jsonl", "csv", "json"]))
    columns = st.one_of(st.sampled_from(["text", "summary", "document", "id"]), words)
    cells = st.one_of(st.just("word1 word2"), words, words, values)
    whole = st.fixed_dictionaries({"text": cells, "summary": cells})
    row = st.one_of(whole, whole, whole, st.dictionaries(columns, cells, max_size=3))
    rows = draw(st.lists(row, min_size=1, max_size=3))
    if ending == "csv":
        lines = [",".join(json.dumps(str(cell)) for cell in (row.keys() if n == 0 else row.values()))
                 for n, row in enumerate(rows)]  # fmt: skip
    else:
        lines = [json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows]
    return malformed.documents(draw(damaged("\n".join(lines).encode(errors="surrogatepass"))), ending)


@st.composite
def damaged(draw, content):
    """The content itself or, once out of four times, with some bytes cut out and others put there."""
    if draw(st.integers(0, 3)):
        return content
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + 8)))
    return content[:start] + draw(st.binary(max_size=4)) + content[end:]


KINDS = {"flags": flags, "recipes": recipes, "DeepSpeed files": deepspeed_files, "documents": documents}
