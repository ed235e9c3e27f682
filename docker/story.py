"""The correspondence that docker/demo plays, and the export of mailboxes.

    story.py play DIR     submit the messages, wait for everything that must come of them, tell it
    story.py export DIR   write all mailboxes to DIR/mailboxes
"""

import os
import shutil
import subprocess
import sys
import time

from clients import Deployment

ANNA, ALDO, BRUNO, PROTOCOLLO = "anna@pec.alfa.test", "aldo@studio.example", "bruno@pec.beta.test", "protocollo@comune.example"
NESSUNO, CARLA = "nessuno@pec.beta.test", "carla@posta.test"
SERVICE = {"ALFA": "ricevute@gestore.alfa.test", "BETA": "ricevute@gestore.beta.test"}

WHAT_IT_ATTESTS = {
    "accettazione": "the provider of the sender accepted the message and sent it on",
    "presa-in-carico": "the other provider took the message in charge",
    "posta-certificata": "the message itself, in its signed envelope",
    "avvenuta-consegna": "the message is in the mailbox of",
    "errore-consegna": "the message cannot be delivered to",
}


def message(sender, recipients, subject, text):
    """A message as a mail client submits it."""
    lines = [
        f"From: {sender}",
        f"To: {', '.join(recipients)}",
        f"Subject: {subject}",
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S %z')}",
        f"Message-ID: <{time.time_ns()}.demo@{sender.split('@')[1]}>",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        *text.splitlines(),
        "",
    ]
    return "\r\n".join(lines).encode()


def tell(text=""):
    print(text, flush=True)


class Story:
    def __init__(self, deployment, patience=200):
        """`patience`: how many seconds a message may take to arrive."""
        self.deployment = deployment
        self.patience = patience
        self.number = 0

    def send(self, sender, recipients, subject, text):
        """Submits a message and keeps its bytes; gives back its Message-ID."""
        raw = message(sender, recipients, subject, text)
        self.number += 1
        directory = self.deployment.home / "originals"
        directory.mkdir(exist_ok=True)
        (directory / f"{self.number:02}.eml").write_bytes(raw)
        tell(f'{time.strftime("%H:%M:%S")}  {sender} sends "{subject}" to')
        for recipient in recipients:
            tell(f"          {recipient}")
        self.deployment.submit(sender, recipients, raw)
        return next(line for line in raw.decode().split("\r\n") if line.startswith("Message-ID:"))[12:]

    def expect(self, address, kind, msgid, about=None):
        """Waits for a message of this kind about that original, and tells what it attests."""

        def wanted(m):
            return m.kind == kind and m.value("msgid") == msgid and (about is None or about in m.about)

        try:
            found = self.deployment.wait_for(address, wanted, self.patience)
        except TimeoutError as error:
            sys.exit(f"demo: missing: {kind}{' about ' + about if about else ''} for {address}\n      {error}")
        attests = WHAT_IT_ATTESTS[kind] + (f" {about}" if kind in ("avvenuta-consegna", "errore-consegna") else "")
        tell(f"{found.value('ora')}  {kind} for {address}")
        tell(f"          from {found.header['From']}, certified by {found.value('gestore-emittente')}: {attests}")
        if kind == "accettazione":
            for recipient, tipo in found.recipients.items():
                tell(f"          {recipient}: {tipo}")
        if kind == "errore-consegna":
            tell(f"          {found.value('errore-esteso')}")
        if kind == "presa-in-carico":
            tell(f"          for {', '.join(found.about)}")
        return found

    def prove(self, msgid, container):
        """The evidence about a message, from the sender's provider: made there, kept here, checked. Gives back the file."""
        directory = self.deployment.home / "evidence"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        file = directory / "evidence.zip"

        def pecctl(*arguments, check=True):
            return subprocess.run(["docker", "exec", container, *arguments], capture_output=True, text=True, check=check)

        pecctl("rm", "-f", "/tmp/evidence.zip")
        made = pecctl("pecctl", "evidence", msgid, "--output", "/tmp/evidence.zip", check=False)
        if made.returncode != 0:
            sys.exit(f"demo: no evidence about {msgid}: {made.stderr}")
        subprocess.run(["docker", "cp", f"{container}:/tmp/evidence.zip", str(file)], capture_output=True, check=True)
        judged = pecctl("pecctl", "evidence", "verify", "/tmp/evidence.zip", check=False)
        if judged.returncode != 0:
            sys.exit(f"demo: the evidence does not verify:\n{judged.stdout}{judged.stderr}")
        for line in judged.stdout.splitlines()[:-1]:
            tell(f"          {line}")
        return file

    def play(self, container):
        tell("\nTimes are Italian, as in the receipts.")
        tell("\n1. One recipient, at the other provider\n")
        msgid = self.send(ANNA, [BRUNO], "Disdetta del contratto", "Con la presente disdico il contratto.\nAnna")
        self.expect(ANNA, "accettazione", msgid)
        self.expect(SERVICE["ALFA"], "presa-in-carico", msgid, BRUNO)
        self.expect(BRUNO, "posta-certificata", msgid)
        self.expect(ANNA, "avvenuta-consegna", msgid, BRUNO)
        about = msgid

        tell("\n2. Five recipients: at both providers, one mailbox that does not exist, one at an ordinary server\n")
        recipients = [BRUNO, PROTOCOLLO, ALDO, NESSUNO, CARLA]
        msgid = self.send(ANNA, recipients, "Convocazione dell'assemblea", "L'assemblea si tiene il 10 dicembre.\nAnna")
        self.expect(ANNA, "accettazione", msgid)
        self.expect(SERVICE["ALFA"], "presa-in-carico", msgid, ALDO)
        self.expect(SERVICE["ALFA"], "presa-in-carico", msgid, BRUNO)
        self.expect(SERVICE["ALFA"], "presa-in-carico", msgid, PROTOCOLLO)
        for address in (ALDO, BRUNO, PROTOCOLLO, CARLA):
            self.expect(address, "posta-certificata", msgid)
        for address in (ALDO, BRUNO, PROTOCOLLO):
            self.expect(ANNA, "avvenuta-consegna", msgid, address)
        tell("          (a mailbox that is said not to exist is asked for once more, a minute later, before that is certified)")
        self.expect(ANNA, "errore-consegna", msgid, NESSUNO)

        tell("\n3. The proof: Alfa's register about the first message, for a judge who believes neither Alfa nor Beta\n")
        file = self.prove(about, container)
        tell(f"          {file.name} has it all, and a README.txt that says how to check it with sh and openssl alone")


def export(deployment):
    """Every mailbox, service mailboxes too, each message as IMAP gives it out."""
    root = deployment.home / "mailboxes"
    shutil.rmtree(root, ignore_errors=True)
    count = 0
    for address in deployment.passwords:
        directory = root / address
        directory.mkdir(parents=True)
        for number, found in enumerate(deployment.mailbox(address), 1):
            (directory / f"{number:02}-{found.kind}.eml").write_bytes(found.raw)
            count += 1
    return count


def how_to_reach(deployment):
    tell("\nEverything is left running. To try it with a mail client (the certificates are signed by target/demo/ca/ca.pem):\n")
    tell(f"  {'address':<42} {'password':<14} {'IMAP (TLS)':<17} SMTP (STARTTLS)")
    for address, password in deployment.passwords.items():
        server = deployment.servers[address]
        submission = deployment.env.get(f"{server}_SUBMISSION", "receives only")
        tell(f"  {address:<42} {password:<14} {deployment.env[f'{server}_IMAPS']:<17} {submission}")
    tell("\n  target/demo/env         the same for programs        docker/demo export   the mailboxes again")
    tell("  target/demo/mailboxes   what the mailboxes hold      docker/demo down     remove everything")
    tell("  target/demo/evidence    what proves the first message to a court")
    tell("  docker exec pec-demo-alfa-postfix pecctl log MSGID   the story of a message, from Alfa's log")


def main():
    command, home = sys.argv[1:]
    # As in the receipts, without a database of time zones.
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    deployment = Deployment(home)
    if command == "export":
        tell(f"demo: {export(deployment)} messages written to {deployment.home / 'mailboxes'}")
        return
    deployment.wait_until_up()
    Story(deployment).play("pec-demo-alfa-postfix")
    count = export(deployment)
    tell(f"\nAll {count} messages are in target/demo/mailboxes.")
    how_to_reach(deployment)


if __name__ == "__main__":
    main()
