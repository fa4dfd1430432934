"""Runs parity, attach and generate under the oldest and the newest tested releases (`make compat`).

Each set of releases, a file beside this one, gets an environment in .venv-compat/ that lies over the one that runs
this: pip installs there only what differs. Arguments are passed on to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETS = ("oldest", "newest")
TESTS = (
    "tests/settings/test_versions.py",
    "tests/parity",
    "tests/encoder/test_attachment.py",
    "tests/encoder/test_attachment_peft.py",
    "tests/encoder/test_attachment_refusals.py",
    "tests/encoder/test_layered.py",
    "tests/encoder/test_outputs.py",
    "tests/decoder",
    "tests/replay",
)
LAUNCHERS = ("accelerate", "deepspeed")
SHOW = """
from importlib.metadata import version
names = ("torch", "transformers", "tokenizers", "huggingface_hub", "accelerate", "deepspeed", "peft", "numpy")
print("  ".join(f"{name} {version(name)}" for name in names))
"""


def environment(name: str) -> Path:
    """The environment of a set, made where it is missing or its file has changed."""
    folder, wanted = ROOT / ".venv-compat" / name, Path(__file__).with_name(f"{name}.txt")
    done = folder / "installed.txt"
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted.read_text(encoding="utf-8"):
        venv.create(folder, clear=True, with_pip=True)
        below = sysconfig.get_path("purelib")
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n", encoding="utf-8")
        install = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--no-cache-dir", "-r", wanted]
        subprocess.run(install, cwd=ROOT, check=True)
        done.write_text(wanted.read_text(encoding="utf-8"), encoding="utf-8")
    for name in LAUNCHERS:
        _adopt(folder, Path(sysconfig.get_path("scripts"), name))
    return folder


def _adopt(folder: Path, script: Path) -> None:
    """A script of .venv for an environment over it: by its own first line it would start .venv's releases."""
    copy, python = folder / "bin" / script.name, folder / "bin" / "python"
    if not copy.exists():
        _, *rest = script.read_text(encoding="utf-8").splitlines(keepends=True)
        copy.write_text("".join([f"#!{python}\n", *rest]), encoding="utf-8")
        copy.chmod(0o755)


def passes(name: str, flags: list[str]) -> bool:
    """Whether all tests pass under a set; what it consists of is printed first."""
    folder = environment(name)
    paths = [str(folder / "bin"), sysconfig.get_path("scripts"), os.environ["PATH"]]
    # DeepSpeed's operators are compiled against one release of torch.
    variables = {"PATH": os.pathsep.join(paths), "TORCH_EXTENSIONS_DIR": str(folder / "torch_extensions")}
    python, settings = folder / "bin" / "python", {**os.environ, **variables}
    print(f"\n{name}:", flush=True)
    subprocess.run([python, "-c", SHOW], cwd=ROOT, env=settings, check=True)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, *flags]
    return subprocess.run(command, cwd=ROOT, env=settings).returncode == 0


def main(flags: list[str]) -> int:
    """Run all sets, and sum up; 1 if any test failed."""
    results = {name: passes(name, flags) for name in SETS}
    print("\n" + "\n".join(f"{name}: {'passed' if passed else 'FAILED'}" for name, passed in results.items()))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
