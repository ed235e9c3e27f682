"""The evidence for a court: made on a provider after a message went through, taken to a machine that has sh and openssl and no
network, where the README's own commands are followed; and what they say once a byte is another."""

import zipfile

import pytest
from network import ANNA, BRUNO, run

# What each block after the tools must say, in its order.
SAYS = [
    "right: the provider has signed the manifest",
    "is in the tree of ",
    "right: the log key has signed the checkpoint",
    "right: the provider has signed log.key",
    "right: the provider has signed the checkpoint",
    "right: the TSA has seen checkpoint.p7s by ",
]


def blocks(readme):
    """The commands, as a reader cuts them out."""
    return [part.split("```\n")[0] for part in readme.decode().split("\n```sh\n")[1:]]


@pytest.fixture(scope="module")
def base(net):
    """An image of plain Debian with openssl; of it nothing but sh and openssl is within reach."""
    return f"pec-between:{net.base}"


def follow(base, members, directory):
    """Every block after the first by itself, on a machine without a network: [(exit status, output)]."""
    for name, content in members.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    tools, *others = blocks(members["README.txt"])
    followed = directory.with_name(directory.name + "-blocks")
    followed.mkdir()
    for number, block in enumerate(others):
        (followed / f"{number}").write_text(tools + block)
    run(
        "docker", "run", "--rm", "--network", "none", "--volume", f"{directory}:/evidence", "--volume", f"{followed}:/blocks", "--workdir", "/evidence", base,
        "sh", "-c", "mkdir /only && ln -s /usr/bin/openssl /only/ && PATH=/only && for block in /blocks/*; do "
        "/bin/sh -u $block >$block.said 2>&1; echo $? >$block.status; done",
    )  # fmt: skip
    return [(int((followed / f"{number}.status").read_text()), (followed / f"{number}.said").read_text()) for number in range(len(others))]


def evidence(net, host, msgid, directory):
    file = f"/tmp/evidence-{msgid.strip('<>')}.zip"
    told = net.execute(host, "postfix", "pecctl", "evidence", msgid, "--output", file).stdout
    assert "rows, in a register of" in told, told
    here = directory / "evidence.zip"
    run("docker", "cp", f"{net.container(host, 'postfix')}:{file}", str(here))
    with zipfile.ZipFile(here) as archive:
        assert archive.testzip() is None
        return here, {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.both
def test_the_readme_is_followed_where_there_is_openssl_alone(net, base, tmp_path):
    msgid, _ = net.submit(ANNA, [BRUNO])
    net.expect(ANNA, "avvenuta-consegna", msgid, BRUNO)
    for host, has in (("alfa", "sent/"), ("beta", "custody/")):
        (tmp_path / host).mkdir()
        file, members = evidence(net, host, msgid, tmp_path / host)
        assert any(name.startswith(has) for name in members), sorted(members)
        assert msgid in members["log.jsonl"].decode()
        # Of the messages themselves nothing is kept.
        assert not any(name.endswith(".eml") for name in members), sorted(members)
        assert any(name.startswith(has) and msgid.strip("<>").encode() in content for name, content in members.items())
        # Neither the configuration nor the database is there.
        judged = run(
            "docker", "run", "--rm", "--network", "none", "--volume", f"{file}:/evidence.zip", "--entrypoint", "pecctl", f"pec:{net.base}",
            "evidence", "verify", "/evidence.zip",
        )  # fmt: skip
        assert judged.stdout.endswith("/evidence.zip: right\n"), judged.stdout
        answers = follow(base, members, tmp_path / host / "unpacked")
        assert [status for status, _ in answers] == [0] * len(answers), answers
        for words in SAYS:
            assert any(words in said for _, said in answers), (words, answers)


def test_a_changed_byte_is_named(net, base, tmp_path):
    msgid, _ = net.submit(ANNA, [BRUNO])
    net.expect(ANNA, "avvenuta-consegna", msgid, BRUNO)
    (tmp_path / "whole").mkdir()
    _, members = evidence(net, "alfa", msgid, tmp_path / "whole")
    proof = next(name for name in members if name.startswith("proofs/"))
    for number, name in enumerate(("log.jsonl", proof, "checkpoint", "log.key", "checkpoint.p7s", "checkpoint.tsr", "log.key.p7s", "log.key.tsr", "manifest", "manifest.p7s")):
        changed = bytearray(members[name])
        # Of a signature its own bytes, which are at its end.
        place = len(changed) - 9 if name.endswith((".p7s", ".tsr")) else len(changed) // 2
        changed[place] ^= 1
        altered = {**members, name: bytes(changed)}
        file = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in altered.items():
                archive.writestr(member, content)
        judged = run(
            "docker", "run", "--rm", "--network", "none", "--volume", f"{file}:/evidence.zip", "--entrypoint", "pecctl", f"pec:{net.base}",
            "evidence", "verify", "/evidence.zip", check=False,
        )  # fmt: skip
        assert judged.returncode == 1 and f"WRONG: {name}: " in judged.stdout, (name, judged.stdout)
        answers = follow(base, altered, tmp_path / str(number))
        assert any(status != 0 and "WRONG: " in said for status, said in answers), (name, answers)
