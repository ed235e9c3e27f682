//! The file's README: what there is, what it proves, and how to check it with `sh` and `openssl` alone, in
//! Italian and English.
//!
//! Promise: the lines between "```sh" and "```" are commands as they are to be typed. The first such block
//! makes tools, each other one works by itself after it, prints `right:` or `WRONG:` for each thing, and ends
//! with status 0 only if nothing was wrong. They need openssl 3.0 and a POSIX shell, and no other program,
//! nor a network.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use openssl::x509::X509;
use pec_core::clock::Moment;

use super::{KEY, LOG, Members, TSA_CA, beside, named};
use crate::checkpoint::Checkpoint;

/// When something was signed, and timestamped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed {
    /// By the signature's own word.
    pub(crate) at: Moment,
    /// By the TSA's.
    pub(crate) stamped: Option<Moment>,
}

impl Signed {
    /// When the certificate must have been good.
    fn then(self) -> i64 {
        self.stamped.unwrap_or(self.at).unix()
    }
}

/// What the text says.
pub(crate) struct Facts<'a> {
    pub(crate) asked: &'a str,
    pub(crate) provider: &'a str,
    pub(crate) service_domain: &'a str,
    pub(crate) now: Moment,
    pub(crate) rows: usize,
    pub(crate) identifiers: &'a BTreeSet<String>,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) signed_now: bool,
    pub(crate) key: Signed,
    pub(crate) seal: Signed,
    pub(crate) cas: &'a [X509],
    pub(crate) missing: &'a [(String, String)],
}

/// Which members there are.
pub(crate) struct Present {
    key_stamp: bool,
    checkpoint_stamp: bool,
    crls: Vec<String>,
    names: Vec<String>,
}

impl Present {
    pub(crate) fn of(members: &Members) -> Self {
        Self {
            key_stamp: members.contains_key(&beside(KEY, "tsr")),
            checkpoint_stamp: members.contains_key("checkpoint.tsr"),
            crls: members.keys().filter(|name| name.starts_with("crl/")).cloned().collect(),
            names: members.keys().cloned().collect(),
        }
    }
}

/// What every other block uses: bytes of hexadecimal and base64, SHA-256, and a verdict. Octal escapes are
/// all that every printf has.
const TOOLS: &str = r#"unhex() {
  h=$1 f=
  while [ -n "$h" ]; do
    t=${h#??}
    d=$((0x${h%"$t"}))
    f="$f\\$((d / 64))$((d / 8 % 8))$((d % 8))"
    h=$t
  done
  printf "$f"
}
unbase64() {
  a=ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/
  b=${2%%=*} skip=$1 n=0 v=0 f=
  while [ -n "$b" ]; do
    t=${b#?}
    c=${b%"$t"}
    b=$t
    i=${a%%"$c"*}
    v=$((v % 4096 * 64 + ${#i}))
    n=$((n + 6))
    if [ $n -ge 8 ]; then
      n=$((n - 8))
      d=$((v >> n & 255))
      if [ $skip -gt 0 ]; then skip=$((skip - 1)); else f="$f\\$((d / 64))$((d / 8 % 8))$((d % 8))"; fi
    fi
  done
  printf "$f"
}
sha() { openssl dgst -sha256 -r | { read -r h t; echo "$h"; }; }
say() { if [ "$1" -eq 0 ]; then echo "right: $2"; else echo "WRONG: $2"; wrong=$((wrong + 1)); fi; }
verdict() { [ "$wrong" -eq 0 ]; }
"#;

/// Each row by way of its proof to the checkpoint's root.
const ROWS: &str = r#"wrong=0
{ read -r origin; read -r size; read -r root; } <checkpoint
while IFS= read -r line; do
  row=${line#'{"seq":'}
  row=${row%%,*}
  hash=$(printf '%s' "$line" | sha)
  hash=$({ printf '\000'; unhex "$hash"; } | sha)
  while read -r side other; do
    case $side in
    left) hash=$({ printf '\001'; unhex "$other"; unhex "$hash"; } | sha) ;;
    right) hash=$({ printf '\001'; unhex "$hash"; unhex "$other"; } | sha) ;;
    esac
  done <"proofs/$row.txt"
  [ "$(unhex "$hash" | openssl enc -base64 -A)" = "$root" ]
  say $? "row $row is in the tree of $size rows"
done <log.jsonl
verdict
"#;

/// The signature on the checkpoint, by the key in log.key.
const CHECKPOINT_SIGNATURE: &str = r#"wrong=0 past= signature=
read -r origin <checkpoint
while IFS= read -r line; do
  if [ -z "$line" ]; then past=1
  elif [ -z "$past" ]; then printf '%s\n' "$line" >&3
  elif [ "$line" = "— $origin ${line##* }" ]; then signature=${line##* }
  fi
done <checkpoint 3>note.txt
read -r key <log.key
key=${key#*+}
key=${key#*+}
{ unhex 302a300506032b6570032100; unbase64 1 "$key"; } >key.der
unbase64 4 "$signature" >note.sig
openssl pkeyutl -verify -rawin -pubin -keyform DER -inkey key.der -in note.txt -sigfile note.sig >note.out 2>&1
say $? "the log key has signed the checkpoint"
verdict
"#;

/// The names and fingerprints of the CAs.
const CAS: &str = r#"one=
while IFS= read -r line; do
  one="$one$line
"
  case $line in
  *END*) printf '%s' "$one" | openssl x509 -noout -subject -fingerprint -sha256; one= ;;
  esac
done <certificates/ca.pem
"#;

fn cms(name: &str, at: i64, words: &str) -> String {
    format!(
        "openssl cms -verify -binary -inform DER -in {name}.p7s -content {name} -CAfile certificates/ca.pem \
        -no-CApath -no-CAstore -partial_chain \
         -purpose smimesign -attime {at} -out cms.out 2>cms.err\nsay $? \"{words}\"\n"
    )
}

fn stamp(name: &str, at: Option<Moment>) -> String {
    let Some(at) = at else { return String::new() };
    format!(
        "openssl ts -verify -data {name}.p7s -in {name}.tsr -CAfile certificates/tsa-ca.pem -untrusted \
        certificates/signers.pem -partial_chain \
         -attime {} >ts.out 2>&1\nsay $? \"the TSA has seen {name}.p7s by {at}\"\n",
        at.unix()
    )
}

fn block(text: &mut String, commands: &str) {
    *text += "\n```sh\n";
    *text += commands;
    *text += "```\n";
}

fn section(text: &mut String, number: u8, italian: &str, english: &str) {
    let _ = write!(text, "\n\n{number}. {italian}\n\n   {english}\n");
}

/// The text.
pub(crate) fn write(facts: &Facts<'_>, present: &Present) -> String {
    let Facts { provider, service_domain, checkpoint, .. } = facts;
    let mut text = format!(
        "PROVA DELLE RIGHE DI UN REGISTRO DI POSTA ELETTRONICA CERTIFICATA\nEVIDENCE OF ROWS OF A CERTIFIED \
        MAIL REGISTER\n\n\
         Gestore / provider:       {provider} (posta-certificata@{service_domain})\n\
         Richiesta / asked for:    {}\n\
         Fatta il / made on:       {}\n\
         Righe / rows:             {}, in {LOG}\n",
        facts.asked, facts.now, facts.rows,
    );
    for identifier in facts.identifiers {
        let _ = writeln!(text, "Identificativo:           {identifier}");
    }
    let _ = write!(text, "Registro / register:      {}, {} righe / rows", checkpoint.origin, checkpoint.size);
    text += &checkpoint.time.map_or_else(String::new, |time| format!(", {time}"));
    text += "\n\n\
        Ogni riga di log.jsonl è un fatto che il gestore ha registrato (RFC 6109, 2.3). Il registro è un \
        albero di Merkle (RFC 6962):\n\
        una sola impronta, la radice, dipende da ogni riga di esso. Il file checkpoint contiene la radice, \
        firmata. Chi l'ha in mano\n\
        può dire per sempre se una riga è quella di allora. Per controllare bastano sh e openssl (3.0 o \
        successivo), senza rete e\n\
        senza programmi del gestore. Estrarre lo zip in una directory in cui si può scrivere, entrarvi, e \
        dare in una sola finestra\n\
        prima i comandi del punto 0, poi quelli degli altri punti. Ogni comando risponde right (giusto) o \
        WRONG (sbagliato).\n\n\
        Every line of log.jsonl is a fact that the provider recorded (RFC 6109, 2.3). The register is a \
        Merkle tree (RFC 6962): one\n\
        hash, its root, depends on every row in it. The file checkpoint has the root, signed. Whoever holds \
        it can tell for ever\n\
        whether a row is the one of that time. To check it, sh and openssl (3.0 or later) are enough, \
        without a network and without\n\
        any program of the provider's. Unpack the zip into a directory in which you can write, go there, \
        and give, in one window,\n\
        the commands of section 0 first, then those of the others. Each answers right or WRONG.\n";

    section(&mut text, 0, "Strumenti.", "Tools.");
    block(&mut text, TOOLS);

    section(
        &mut text,
        1,
        "Tutti i file sono quelli che il gestore ha messo qui: manifest ne ha le impronte SHA-256, ed è \
        firmato dal gestore.",
        "All files are those that the provider put here: manifest has their SHA-256 hashes, and is signed \
        by the provider.",
    );
    let manifest = "wrong=0\nwhile read -r hash name; do\n  [ \"$(sha <\"$name\")\" = \"$hash\" ]\n  say $? \
        \"$name\"\ndone <manifest\n";
    block(
        &mut text,
        &(manifest.to_owned()
            + &cms("manifest", facts.now.unix(), "the provider has signed the manifest")
            + "verdict\n"),
    );

    section(
        &mut text,
        2,
        "Ogni riga sta nell'albero. Foglia: SHA-256 del byte 0 e dello SHA-256 della riga (senza a capo). \
        Nodo: SHA-256 del byte 1 e\n   \
         dei due nodi sotto di esso. proofs/NUMERO.txt dice, dalla foglia in su, il nodo accanto e il lato \
        su cui sta.",
        "Every row is in the tree. Leaf: SHA-256 of the byte 0 and the SHA-256 of the line (without its \
        end). Node: SHA-256 of the\n   \
         byte 1 and of the two nodes below. proofs/NUMBER.txt says, from the leaf up, the node beside and \
        the side on which it is.",
    );
    block(&mut text, ROWS);

    section(
        &mut text,
        3,
        "La radice è firmata (Ed25519) con la chiave del registro, che sta in log.key (formato C2SP \
        signed-note).",
        "The root is signed (Ed25519) with the register's key, which is in log.key (format C2SP \
        signed-note).",
    );
    block(&mut text, CHECKPOINT_SIGNATURE);

    section(
        &mut text,
        4,
        "La chiave del registro è del gestore: lo dice la firma con il certificato con cui firma anche le \
        ricevute.",
        "The register's key is the provider's: its signature says so, by the certificate that signs \
        receipts, too.",
    );
    let key = cms(KEY, facts.key.then(), "the provider has signed log.key") + &stamp(KEY, facts.key.stamped);
    block(&mut text, &format!("wrong=0\n{key}verdict\n"));

    section(
        &mut text,
        5,
        "Quando: il gestore ha firmato anche il checkpoint, e una TSA ha visto quella firma (RFC 3161). \
        Nessuno può aver scritto\n   \
         dopo quel momento le righe che il punto 2 trova nell'albero.",
        "When: the provider has signed the checkpoint, too, and a TSA has seen that signature (RFC 3161). \
        Nobody can have written\n   \
         after that moment the rows that section 2 finds in the tree.",
    );
    if facts.signed_now {
        text += "\n   Nessun checkpoint già firmato conteneva queste righe: è stato firmato ora, per questa \
            prova.\n   \
                   No checkpoint that was already signed had these rows: it was signed now, for this \
            evidence.\n";
    }
    if !present.checkpoint_stamp {
        text += "\n   Manca la marca temporale (vedi sotto): il momento è solo quello che dice il \
            gestore.\n   \
                   There is no timestamp (see below): the time is the provider's word alone.\n";
    }
    let seal = cms("checkpoint", facts.seal.then(), "the provider has signed the checkpoint")
        + &stamp("checkpoint", facts.seal.stamped);
    block(&mut text, &format!("wrong=0\n{seal}verdict\n"));
    if present.checkpoint_stamp || present.key_stamp {
        text += "\n   Il momento, nelle parole della TSA / the time, in the TSA's words:\n   openssl ts \
            -reply -in checkpoint.tsr -text\n";
    }

    section(
        &mut text,
        6,
        "Di chi ci si fida: di queste CA, e di nessun altro. Confrontare nomi e impronte con quelli \
        pubblicati dalle CA o da AgID.",
        "Who is believed: these CAs, and nobody else. Compare names and fingerprints with those that the \
        CAs or AgID publish.",
    );
    text.push('\n');
    for ca in facts.cas {
        let _ = writeln!(text, "   {}", named(ca));
    }
    if present.names.iter().any(|name| name == TSA_CA) {
        text += "   (per la TSA / for the TSA: certificates/tsa-ca.pem)\n";
    }
    block(&mut text, CAS);
    if !present.crls.is_empty() {
        text += "\n   Il certificato del gestore non è revocato, per le liste (CRL) che erano in vigore \
            quando la prova fu fatta.\n   \
                   The provider's certificate is not revoked, by the lists (CRLs) that were in force when \
            the evidence was made.\n";
        let mut commands = "wrong=0\n".to_owned();
        let lists: String = present.crls.iter().map(|name| format!(" -CRLfile {name}")).collect();
        let _ = write!(
            commands,
            "openssl verify -CAfile certificates/ca.pem -no-CApath -no-CAstore -partial_chain -untrusted \
            certificates/signers.pem -no_check_time \
             -crl_check{lists} certificates/signers.pem >crl.out 2>&1\nsay $? \"the provider's certificate \
            is in no list\"\nverdict\n"
        );
        block(&mut text, &commands);
    }

    section(
        &mut text,
        7,
        "La busta di trasporto e le ricevute che le parti hanno: message_sha256, nelle righe del registro, \
        è lo SHA-256 di tutto ciò\n   \
         che nel messaggio segue la prima riga vuota (righe terminate da CR LF). Con un messaggio salvato \
        come messaggio.eml:",
        "The envelope and the receipts that the parties have: message_sha256, in the register's rows, is \
        the SHA-256 of all that\n   \
         follows the first empty line of the message (lines ended by CR LF). With a message saved as \
        messaggio.eml:",
    );
    text += "\n   sed '1,/^\\r*$/d' messaggio.eml | openssl dgst -sha256\n";

    text += "\n\nCHE COSA C'È / WHAT THERE IS\n\n";
    for (start, italian, english) in [
        ("log.jsonl", "le righe del registro", "the register's rows"),
        ("proofs/", "le prove che stanno nell'albero", "the proofs that they are in the tree"),
        (
            "checkpoint",
            "la radice dell'albero; .p7s firma, .tsr marca temporale",
            "the tree's root; .p7s signature, .tsr timestamp",
        ),
        (
            "log.key",
            "la chiave pubblica del registro; .p7s, .tsr come sopra",
            "the register's public key; .p7s, .tsr as above",
        ),
        (
            "certificates/",
            "CA (ca.pem, tsa-ca.pem) e certificati dei firmatari",
            "CAs (ca.pem, tsa-ca.pem) and signers' certificates",
        ),
        ("crl/", "liste di revoca", "revocation lists"),
        (
            "sent/",
            "daticert.xml della busta, dal gestore del mittente",
            "the envelope's daticert.xml, by the sender's provider",
        ),
        (
            "not_accepted/",
            "daticert.xml dell'avviso di non accettazione",
            "daticert.xml of the notice of non-acceptance",
        ),
        (
            "custody/",
            "daticert.xml della busta, dal gestore del destinatario",
            "the envelope's daticert.xml, by the recipient's provider",
        ),
        (
            "fact.jsonl",
            "i fatti che le ricevute del gestore attestano",
            "the facts that the provider's receipts attest",
        ),
        ("ricevuta.jsonl", "le ricevute di altri gestori", "other providers' receipts"),
    ] {
        if present.names.iter().any(|name| name.starts_with(start)) {
            let _ = writeln!(text, "{start:<15} {italian}\n{:<15} {english}", "");
        }
    }
    text += "\nDelle sole righe di log.jsonl si prova che sono quelle di allora; il resto le spiega, e lo \
        attesta la firma del manifest.\n\
             Only of the lines in log.jsonl is it proved that they are those of that time; the rest \
        explains them, and the manifest's\n\
             signature vouches for it.\n";
    text += "\n\nCHE COSA MANCA / WHAT IS NOT HERE\n\n";
    for (italian, english) in facts.missing {
        let _ = writeln!(text, "- {italian}\n  {english}");
    }
    text
}
