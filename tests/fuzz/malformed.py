"""Malformed inputs, a kind a line: each is to be refused with one sentence and exit code 2."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from lab.forking import Attempt

# Flag -> values that it cannot have.
REALS = ["nan", "inf", "-inf", "-1", "1e999", "[1]", "ten", "0x10"]
COUNTS = ["0", "-1", "1.5", "nan", "[1]", "ten", ""]
NUMBERS = {
    **dict.fromkeys(["learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "warmup_steps"], REALS),
    **dict.fromkeys(["adam_beta1", "adam_beta2", "label_smoothing_factor"], [*REALS, "1", "2"]),
    **dict.fromkeys(["num_train_epochs"], REALS),
    **dict.fromkeys(["per_device_train_batch_size", "gradient_accumulation_steps", "max_target_length"], COUNTS),
    **dict.fromkeys(["window", "windows_per_pass", "tile", "max_train_samples", "per_device_eval_batch_size"], COUNTS),
    **dict.fromkeys(["logging_steps", "save_steps", "eval_steps"], ["nan", "inf", "-1", "ten"]),
    **dict.fromkeys(["seed", "data_seed"], ["-1", "1.5", str(2**64), "ten"]),
    **dict.fromkeys(["dataloader_num_workers", "num_samples", "max_skipped_steps"], ["-1", "1.5", "ten"]),
    **dict.fromkeys(["preprocessing_num_workers", "pad_to_multiple_of", "max_source_length"], ["0", "-1", "1.5"]),
    **dict.fromkeys(["save_total_limit", "num_beams", "generation_max_length", "ddp_timeout"], ["0", "-1", "1.5"]),
}
WORDS = {
    "max_steps": ["1e3", "-2", "nan", "ten"],
    "overlap": ["-1", "8", "16", "ten"],
    "memory_budget": ["-1", "nan", "lots", "1XB"],
    "lr_scheduler_type": ["linaer", "", "[linear]"],
    "lr_scheduler_kwargs": ["{", "[1]", "3", '{"no_such_option": 1}'],
    "optim": ["adamw", "sdg", "adamw_bnb_8bit", "[sgd]"],
    "optim_args": ["no_such_option=1", "momentum", "betas=x"],
    "save_strategy": ["sometimes"],
    "eval_on_start": ["true"],
    "use_liger_kernel": ["true"],
    "dataloader_persistent_workers": ["true"],
    "eval_strategy": ["always", "steps"],
    "report_to": ["tensorbord", "wandb"],
    "recompute": ["some", "-1"],
    "document_parallel": ["0", "1.5", "2", "ten"],  # there is one process
    "schedule": ["layers"],
    "offload": ["gpu"],
    "do_train": ["perhaps", "2"],
    "bf16": ["half"],
    "accelerator_config": ["{", "[1]", '{"no_such_option": 1}', '{"split_batches": "perhaps"}', "nowhere.json"],
    "gradient_checkpointing_kwargs": ["{", "[1]"],
    "metric_for_best_model": ["rouge7"],
    "resume_from_checkpoint": ["nowhere"],
    "rouge_tokenizer": ["french"],
    "attribution": ["true", "attention"],
    "model_name_or_path": ["nowhere/at/all", "."],
    "tokenizer_name": ["nowhere/at/all", "."],
    "config_name": ["tiny-brat"],
    "generation_config": ["", "nowhere/at/all"],
    "train_file": ["nowhere.jsonl", ".", "/dev/null"],
    "validation_file": ["nowhere.jsonl"],
    "text_column": ["txt", "summary", "text[0]", "text.part"],
    "text_lists": ["lines", "join", "windows"],
    "prefix_column": ["query"],
    "prefix_separator": ["", "</s>"],
    "keep_prefix": ["true", "perhaps"],
    "lang": ["xx"],
    "deepspeed": ["nowhere.json", ".", "[1]", "{", "true"],
    "fsdp": ["full_shard", "sharded", "full_shard auto_wrap no_such"],
    "fsdp_config": ["nowhere.json", "{"],
    "label_names": ["no_such_column"],
    "include_for_metrics": ["everything"],
    "dataloader_prefetch_factor": ["2", "-1"],
    "dataloader_multiprocessing_context": ["thread", "fork"],
    "torch_empty_cache_steps": ["0", "-1"],
    "neftune_noise_alpha": ["nan", "-1", "ten"],
    "debug": ["everything"],
    "log_level": ["loud"],
    "windw": ["8"],
    "trust_remote_code": ["true"],
}
RECIPES = {
    "nan": b"learning_rate: .nan",
    "infinity": b"learning_rate: .inf",
    "negative": b"weight_decay: -1",
    "list for a number": b"learning_rate: [1]",
    "mapping for a number": b"learning_rate: {a: 1}",
    "list of lists": b"report_to: [[none]]",
    "text for a number": b"window: wide",
    "date for a number": b"window: 2026-01-01",
    "sexagesimal": b"window: 1:30",
    "a list": b"- window: 8",
    "text": b"window",
    "a number": b"3",
    "empty": b"",
    "null": b"null",
    "list as key": b"[a, b]: 1",
    "mapping as key": b"{a: 1}: 1",
    "number as key": b"1: 2",
    "null as key": b"~: 2",
    "key twice": b"window: 8\nwindow: 16",
    "unknown key": b"windw: 8",
    "flag as key": b"--window: 8",
    "empty key": b"'': 8",
    "control character": b"window: \x07",
    "null byte": b"window: 8\x00",
    "tab": b"window:\t8\n\tseed: 1",
    "not UTF-8": b"run_name: \xff\xfe",
    "UTF-16": "window: 8".encode("utf-16"),
    "open quote": b'run_name: "abc',
    "open bracket": b"report_to: [none",
    "indentation": b"window: 8\n  seed: 1",
    "python tag": b"run_name: !!python/object/apply:os.getcwd []",
    "unknown tag": b"run_name: !secret abc",
    "alias": b"run_name: &a abc\nproject: *a",
    "recursive alias": b"run_name: &a [*a]",
    "exponential aliases": b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nrun_name: [*c, *c]",
    "unknown alias": b"run_name: *a",
    "two documents": b"window: 8\n---\nwindow: 16",
    "directive": b"%YAML 9.9\n---\nwindow: 8",
    "nested deep": b"run_name: " + b"[" * 5_000,
    "binary": b"window: !!binary aGVsbG8=",
    "set": b"window: !!set {8}",
    "huge number": b"window: " + b"9" * 5_000,
}
JSON_RECIPES = {
    "NaN": b'{"learning_rate": NaN}',
    "Infinity": b'{"learning_rate": Infinity}',
    "large exponent": b'{"learning_rate": 1e999}',
    "nested deep": b'{"run_name": ' + b"[" * 100_000,
    "nested deep and closed": b'{"run_name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a list": b"[1]",
    "key twice": b'{"window": 8, "window": 16}',
    "comma": b'{"window": 8,}',
    "comment": b'{"window": 8} // eight',
    "empty": b"",
    "half a character": b'{"run_name": "\\ud800"}',
    "null character": b'{"run_name": "a\\u0000b"}',
    "huge number": b'{"window": ' + b"9" * 5_000 + b"}",
    "list for a number": b'{"window": [8]}',
    "list of lists": b'{"report_to": [["none"]]}',
    "not UTF-8": b'{"run_name": "\xff"}',
}
# Section of a DeepSpeed file -> values that it cannot have.
DEEPSPEED = {
    "zero_optimization": [
        2, "2", [], True, {}, {"stage": "auto"},
        {"stage": 7}, {"stage": "two"}, {"stage": -1}, {"stage": 1.5}, {"stage": None},
        {"stage": [2]}, {"stage": 2, "no_such_option": 1}, {"stage": 2, "reduce_bucket_size": -1},
        {"stage": 2, "reduce_bucket_size": "big"}, {"stage": 2, "offload_optimizer": {"device": "gpu"}},
        {"stage": 2, "offload_optimizer": "cpu"}, {"stage": 3, "offload_param": {"device": 3}},
        {"stage": 3, "stage3_prefetch_bucket_size": "x"}, {"stage": 2, "overlap_comm": "perhaps"},
        {"stage": 2, "contiguous_gradients": 7}, {"stage": 1, "allgather_bucket_size": 3},
    ],
    "train_batch_size": [0, -1, 1.5, "8", [8], True, 10**30],
    "train_micro_batch_size_per_gpu": [0, -1, 1.5, "8", True, 3],
    "gradient_accumulation_steps": [0, -1, 1.5, "one", True, 4],
    "gradient_clipping": [-1, "one", [1], True, 0.5],
    "steps_per_print": ["many", [1], -1],
    "optimizer": [
        "adamw", {}, {"type": "AdamNope"}, {"type": 5}, {"type": ["AdamW"]}, [],
        {"type": "AdamW", "params": {"lr": "fast"}}, {"type": "AdamW", "params": {"lr": -1}},
        {"type": "AdamW", "params": [1]}, {"type": "AdamW", "params": {"no_such_option": 1}},
        {"type": "AdamW", "params": {"betas": 0.9}}, {"type": "AdamW", "params": {"lr": 0.5}},
    ],
    "scheduler": [
        "WarmupLR", {}, {"type": "WarmNope"}, {"type": 5}, [],
        {"type": "WarmupLR", "params": {"no_such_option": 1}}, {"type": "WarmupLR", "params": [1]},
        {"type": "WarmupLR", "params": {"warmup_num_steps": "many"}},
        {"type": "WarmupLR", "params": {"warmup_num_steps": 7}},
        {"type": "WarmupDecayLR", "params": {"total_num_steps": 7, "warmup_num_steps": "auto"}},
    ],
    "bf16": [True, 1, {"enabled": 3}, {"enabled": "perhaps"}, {"enabled": True, "no_such_option": 1}],
    "fp16": [True, {"enabled": "perhaps"}, {"enabled": True, "loss_scale": "big"}, {"enabled": True, "loss_scale": -1}],
    "communication_data_type": ["fp33", 32, ["fp32"]],
    "data_types": [1, {"grad_accum_dtype": "fp33"}, {"grad_accum_dtype": 32}],
    "zero_optimisation": [{"stage": 2}],
    "wall_clock_breakdown": ["perhaps", [1]],
    "zero_allow_untested_optimizer": ["perhaps", [1]],
    "prescale_gradients": ["perhaps", True],
    "gradient_predivide_factor": [0, "x", 2],
    "activation_checkpointing": [True, {"partition_activations": "perhaps"}],
    "flops_profiler": [True, {"enabled": "perhaps"}],
    "aio": [1, {"block_size": "big"}],
}  # fmt: skip
WHOLE_DEEPSPEED = {
    "empty": b"", "a list": b"[]", "a number": b"2", "NaN": b'{"gradient_clipping": NaN}', "comma": b"{,}",
    "key twice": b'{"bf16": {}, "bf16": {}}', "nested deep": b'{"bf16": ' + b"[" * 100_000, "not UTF-8": b'{"\xff": 1}',
    "yaml": b"zero_optimization: {stage: 2}", "no batch size": b'{"zero_optimization": {"stage": 2}}',
}  # fmt: skip
GOOD = b'{"text": "word1 word2", "summary": "word3"}\n'
JSON_LINES = {
    "empty": b"",
    "blank lines": b"\n\n\n",
    "not JSON": b"text summary",
    "a list": b"[1, 2]\n",
    "a number": b"3\n",
    "cut off": GOOD + b'{"text": "wor',
    "NaN": b'{"text": NaN, "summary": "a"}\n',
    "number": b'{"text": 3, "summary": "a"}\n',
    "null": b'{"text": null, "summary": "a"}\n',
    "list": b'{"text": ["a"], "summary": "a"}\n',
    "mapping": b'{"text": {"a": "b"}, "summary": "a"}\n',
    "boolean": b'{"text": true, "summary": "a"}\n',
    "empty text": b'{"text": "", "summary": "a"}\n',
    "spaces": b'{"text": " \\n ", "summary": "a"}\n',
    "empty summary": b'{"text": "a", "summary": ""}\n',
    "half a character": b'{"text": "\\ud83d", "summary": "a"}\n',
    "not UTF-8": b'{"text": "\xff", "summary": "a"}\n',
    "UTF-16": GOOD.decode().encode("utf-16"),
    "missing column": b'{"text": "a"}\n',
    "missing in line 2": GOOD + b'{"text": "a"}\n',
    "number in line 2": GOOD + b'{"text": "a", "summary": 3}\n',
    "unknown columns": b'{"a": "b", "c": "d", "e": "f"}\n',
    "two candidates": b'{"text": "a", "document": "b", "summary": "c"}\n',
    "empty object": b"{}\n",
    "nested deep": b'{"text": ' + b"[" * 100_000 + b"\n",
    "two objects": b'{"text": "a", "summary": "b"} {"text": "a", "summary": "b"}\n',
    "one array over lines": b'[\n{"text": "a", "summary": "b"}\n]\n',
    "pretty": b'{\n"text": "a",\n"summary": "b"\n}\n',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "null bytes": b"\x00" * 100,
    "huge number": b'{"text": ' + b"9" * 5_000 + b', "summary": "a"}\n',
}
CSV = {
    "empty": b"",
    "header only": b"text,summary\n",
    "one column": b"text\na\n",
    "too many fields": b"text,summary\na,b,c\n",
    "too few fields": b"text,summary\na\n",
    "open quote": b'text,summary\n"a,b\n',
    "quote in a field": b'text,summary\n"a"b,c\n',
    "nameless column": b",text,summary\n0,a,b\n",
    "column twice": b"text,text\na,b\n",
    "not UTF-8": b"text,summary\na,b\n\xff,c\n",
    "UTF-16": "text,summary\na,b\n".encode("utf-16"),
    "empty field": b"text,summary\na,\n",
    "semicolons": b"text;summary\na;b\n",
    "tabs": b"text\tsummary\na\tb\n",
    "null bytes": b"\x00\x00\x00",
    "unknown columns": b"a,b,c\nd,e,f\n",
}


def parquet(columns):
    """The bytes of a Parquet file with these columns."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


PARQUET = {
    "empty": b"",
    "text": b"text,summary\na,b\n",
    "cut off": parquet({"text": ["a"], "summary": ["b"]})[:-20],
    "no rows": parquet({"text": pa.array([], pa.string()), "summary": pa.array([], pa.string())}),
    "numbers": parquet({"text": [1], "summary": ["b"]}),
    "lists": parquet({"text": [["a"]], "summary": ["b"]}),
    "null": parquet({"text": ["a", None], "summary": ["b", "c"]}),
    "bytes": parquet({"text": [b"a"], "summary": ["b"]}),
    "one column": parquet({"text": ["a"]}),
}


def flag_attempts():
    """Name and attempt of every wrong value of a flag."""
    for name, values in (NUMBERS | WORDS).items():
        for value in values:
            yield f"--{name} {value}", Attempt(flags={name: value})


def file_attempts():
    """Name and attempt of every malformed file."""
    for ending, recipes in (("yaml", RECIPES), ("json", JSON_RECIPES)):
        for name, content in recipes.items():
            yield f"{ending} recipe: {name}", Attempt(files={f"r.{ending}": content}, recipe=f"r.{ending}")
    for section, values in DEEPSPEED.items():
        for value in values:
            config = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto", section: value}
            content = json.dumps(config).encode()
            yield f"DeepSpeed: {section}={value}", deepspeed(content)
    for name, content in WHOLE_DEEPSPEED.items():
        yield f"DeepSpeed: {name}", deepspeed(content)
    for ending, files in (("jsonl", JSON_LINES), ("csv", CSV), ("parquet", PARQUET)):
        for name, content in files.items():
            yield f"{ending}: {name}", documents(content, ending)


def deepspeed(content):
    """An attempt with this DeepSpeed file."""
    return Attempt(files={"ds.json": content}, flags={"deepspeed": "ds.json"})


def documents(content, ending):
    """An attempt with these training documents."""
    return Attempt(files={f"train.{ending}": content}, flags={"train_file": f"train.{ending}"})


ATTEMPTS = dict([*flag_attempts(), *file_attempts()])
