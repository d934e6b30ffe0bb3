"""What a run leaves behind: results.json, results.md, two plots, and a part of the README."""

import json
import re
from pathlib import Path

from tests.bench.figures import PRODUCT, Results
from tests.bench.machine import ROOT
from tests.bench.plot import cpu_plot, growth_plot
from tests.bench.table import readme_part, report

_HERE = Path(__file__).parent
_PART = re.compile(r"(<!-- bench: [^\n]*-->\n).*?(<!-- /bench -->)", re.DOTALL)


def everything(results: Results) -> None:
    """Write all of it. What a partial run has not measured has no plot."""
    (_HERE / "results.json").write_text(as_json(results))
    (_HERE / "results.md").write_text(report(results))
    if any("get.cpu_us" in parties.get(PRODUCT, {}) for parties in results["figures"].values()):
        (_HERE / "cpu.svg").write_text(cpu_plot(results["figures"], results["tokens"]))
    if results["growth"]:
        (_HERE / "growth.svg").write_text(growth_plot(results["growth"]))
    readme = ROOT / "README.md"
    readme.write_text(with_part(readme.read_text(), readme_part(results)))


def as_json(results: Results) -> str:
    """The run, with lists of figures on one line each."""
    text = json.dumps(_rounded(results), indent=1)
    return re.sub(r"\[[-+\d\s.,e]*\]", lambda found: json.dumps(json.loads(found[0])), text) + "\n"


def _rounded(value: object) -> object:
    """Six digits say all that can be measured."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def with_part(readme: str, part: str) -> str:
    """The README with that between its marks. Raises ValueError where they are missing."""
    text, count = _PART.subn(lambda found: f"{found[1]}{part}\n{found[2]}", readme)
    if count != 1:
        raise ValueError("the README has no <!-- bench: … --> and <!-- /bench -->")
    return text
