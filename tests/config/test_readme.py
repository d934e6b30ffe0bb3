"""The README's samples and `docker run` lines, as they stand there."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from proxy.sandbox import Sandbox
from tests.config.examples import ADMIN_LISTEN, ROOT, Example, Here, image, settings_of
from tests.product.command import CANVAS, running
from tests.support.caller import Caller, fetch


def section(title: str) -> str:
    readme = (ROOT / "README.md").read_text()
    found = re.search(rf"^### {title}\n(.*?)^##", readme, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def block(language: str, title: str, containing: str = "") -> str:
    every = re.findall(rf"^```{language}\n(.*?)^```", section(title), re.DOTALL | re.MULTILINE)
    return next(text for text in every if containing in text)


SAMPLES = {
    "sh": ("sample.sh", ["sh"], "curl"),
    "python": ("sample.py", [sys.executable], sys.executable),
    "js": ("sample.mjs", ["node"], "node"),
    "java": ("Patients.java", ["java"], "java"),
    "csharp": ("sample.cs", ["dotnet", "run"], "dotnet"),
}


@pytest.mark.parametrize("language", SAMPLES)
async def test_a_sample_finds_the_patient(language: str, sandbox: Sandbox, tmp_path: Path) -> None:
    name, command, needs = SAMPLES[language]
    text = block(language, "From your app")
    if shutil.which(needs) is None:
        pytest.skip(f"{needs} is not installed")
    entrypoint, arguments = image()
    here = Example([*entrypoint, *arguments], {**CANVAS}).here(sandbox, tmp_path)
    (tmp_path / name).write_text(here.local(text))
    async with here.started(), running(name, cwd=tmp_path, prefix=(*command,)) as sample:
        await sample.says(r'^1$|"total": ?1\b', seconds=50)
        assert await sample.ended() == 0


def published() -> tuple[Example, list[str]]:
    """The image with the environment of the `docker run -p` line, and the ports that it publishes."""
    words = shlex.split(block("sh", "In Docker", "-p ").replace("\\\n", " "))
    assert (words[:2], words[-1]) == (["docker", "run"], "fumage-proxy")
    given = {flag: [words[i + 1] for i, word in enumerate(words) if word == flag] for flag in ("-e", "-p")}
    assert "--read-only" in words
    entrypoint, command = image()
    env = dict(each.split("=", 1) for each in given["-e"])
    return Example([*entrypoint, *command], {**CANVAS, **env}), given["-p"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is not an address")
async def test_a_published_port_is_reached_and_only_by_the_names_that_are_allowed(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    example, ports = published()
    assert ports == ["127.0.0.1:3447:3447"]
    settings_of(example, tmp_path)
    here: Here = example.here(sandbox, tmp_path)
    async with here.started():
        # What Docker forwards does not arrive at 127.0.0.1; this address stands for the container's own.
        async with await Caller.connect(here.ports[3447], "127.0.0.2") as caller:
            assert (await caller.request("GET", "/Patient", host="localhost:3447")).status == 200
            assert (await caller.request("GET", "/Patient", host="fumage:3447")).status == 403
        async with here.execute("fumage-proxy", "health") as health:
            assert await health.ended() == 0
    name, value = re.findall(r"`-e (FUMAGE_PROXY_ALLOWED_HOSTS)=(\w+)`", section("In Docker"))[0]
    allowed = Example(example.argv, {**example.env, name: value}).here(sandbox, tmp_path)
    async with allowed.started():
        assert (await fetch(allowed.ports[3447], "GET", "/Patient", host="fumage:3447")).status == 200
    assert ADMIN_LISTEN not in example.env, "health is asked inside the container"
