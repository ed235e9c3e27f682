//! What a mailbox server says, and what is made of it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use pec_core::address::Address;
use pec_host::parameters::{Settings, Socket};
use pec_program::mailbox::{Handed, MailboxError, Mailboxes, Quota};
use pec_test_support::mail_server::Taken;
use pec_test_support::network::{Host, Network};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;

const ANNA: &str = "anna@pec.alfa.test";
const ALDO: &str = "Aldo@studio.example";

async fn hand(mailboxes: &Mailboxes, quota: Quota, mailbox: &str) -> Handed {
    let pieces = ["Subject: Prova\r\n\r\n".into(), "Ciao\r\n".into()];
    mailboxes
        .hand(quota, "bruno@pec.beta.test", &Address::parse(mailbox).unwrap(), Some("4jTEST"), &pieces)
        .await
}

async fn exists(host: &Host) -> Result<bool, String> {
    let mailboxes = Mailboxes::new(&host.settings);
    mailboxes.exists(&Address::parse(ANNA).unwrap()).await.map_err(|e| e.to_string())
}

#[tokio::test]
async fn yes_is_the_mailboxs_own_word_and_each_no_is_what_it_says() {
    let network = Network::new().await;
    let (alfa, mailboxes) = (&network.alfa, Mailboxes::new(&network.alfa.settings));
    assert_eq!(hand(&mailboxes, Quota::Counts, ALDO).await, Handed::Yes);
    let [Taken { sender, recipient, data, .. }] = &alfa.mailboxes.taken()[..] else {
        panic!("not one message")
    };
    assert_eq!((sender.split(' ').next(), recipient.as_str()), (Some("<bruno@pec.beta.test>"), ALDO));
    assert_eq!(&data[..], b"Subject: Prova\r\n\r\nCiao\r\n");
    let kind = |handed: &Handed| match handed {
        Handed::Yes => "yes",
        Handed::NotYet(_) => "not yet",
        Handed::NoMailbox(_) => "no mailbox",
        Handed::Never(_) => "never",
        Handed::NotKnown(_) => "not known",
    };
    for (answer, expected) in [
        ("550 5.1.1 no such user", "no mailbox"),
        ("550 no such user", "no mailbox"),
        ("553 5.1.3 what is that", "no mailbox"),
        ("552 5.2.2 full", "never"),
        ("550 5.2.1 closed", "never"),
        ("554 5.7.1 not from you", "never"),
        ("552 too much", "never"),
        ("450 4.1.1 no such user, for now", "not yet"),
        ("452 4.2.2 full", "not yet"),
        ("550 5.1.8 no such sender", "not yet"),
        ("503 5.5.1 not now", "not yet"),
        ("451 4.3.0 later", "not yet"),
    ] {
        alfa.mailboxes.answer_recipient(ANNA, Some(answer));
        let handed = hand(&mailboxes, Quota::Counts, ANNA).await;
        assert_eq!(kind(&handed), expected, "{answer} to the recipient: {handed:?}");
        alfa.mailboxes.answer_recipient(ANNA, None);
        alfa.mailboxes.answer_message(ANNA, Some(answer));
        let handed = hand(&mailboxes, Quota::Counts, ANNA).await;
        // Whoever takes the message first and then says so may have it.
        let expected = if expected == "no mailbox" { "never" } else { expected };
        assert_eq!(kind(&handed), expected, "{answer} to the message: {handed:?}");
        alfa.mailboxes.answer_message(ANNA, None);
    }
    assert!(alfa.mailboxes.taken().is_empty());
    // No answer is no no: the mailbox may have it.
    alfa.mailboxes.lose_answers(1);
    assert_eq!(kind(&hand(&mailboxes, Quota::Counts, ANNA).await), "not known");
    assert_eq!(alfa.mailboxes.taken().len(), 1);
    assert_eq!(hand(&mailboxes, Quota::Counts, ANNA).await, Handed::Yes);
}

#[tokio::test]
async fn a_full_mailbox_takes_what_goes_to_the_listener_that_knows_no_quota() {
    let network = Network::new().await;
    let (alfa, mailboxes) = (&network.alfa, Mailboxes::new(&network.alfa.settings));
    alfa.mailboxes.answer_recipient(ANNA, Some("552 5.2.2 full"));
    assert!(
        matches!(hand(&mailboxes, Quota::Counts, ANNA).await, Handed::Never(reply) if reply.to_string() == "552 5.2.2 full")
    );
    assert_eq!(hand(&mailboxes, Quota::CountsNot, ANNA).await, Handed::Yes);
    assert_eq!((alfa.mailboxes.taken().len(), alfa.mailboxes_no_quota.taken().len()), (0, 1));
}

#[tokio::test]
async fn what_is_said_of_a_sender_or_of_all_mail_is_nothing_that_a_mailbox_says() {
    let network = Network::new().await;
    for (script, says) in [
        (&["550 5.1.1 no mail"][..], "550 5.1.1 no mail"),
        (&["220 x", "250 x", "550 5.1.1 no such sender"], "550 5.1.1 no such sender"),
        (&["220 x", "250 x", "250 x", "250 x", "554 5.3.0 no mail now"], "554 5.3.0 no mail now"),
    ] {
        let settings = scripted(network.directory.path(), &network.alfa.settings, script);
        let handed = hand(&Mailboxes::new(&settings), Quota::Counts, ANNA).await;
        assert!(matches!(&handed, Handed::NotYet(why) if why.contains(says)), "{script:?}: {handed:?}");
    }
    // Nobody listens.
    let settings = Settings {
        mailbox_lmtp: Socket::Unix(network.directory.path().join("nobody")),
        ..network.alfa.settings.clone()
    };
    assert!(matches!(hand(&Mailboxes::new(&settings), Quota::Counts, ANNA).await, Handed::NotYet(_)));
}

/// The settings with a mailbox server that says these lines, one after the other, whatever it hears.
fn scripted(directory: &Path, settings: &Settings, script: &'static [&'static str]) -> Settings {
    let path = directory.join(format!("scripted-{}", script.len()));
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        loop {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            for line in script {
                stream.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
                let _ = stream.read_line(&mut String::new()).await;
            }
        }
    });
    Settings { mailbox_lmtp: Socket::Unix(path), ..settings.clone() }
}

#[tokio::test]
async fn a_mailbox_that_does_not_answer_holds_up_nobody_elses_mail() {
    let network = Network::new().await;
    let (alfa, mailboxes) = (&network.alfa, Mailboxes::new(&network.alfa.settings));
    alfa.mailboxes.lock(ANNA);
    let hands = || hand(&mailboxes, Quota::Counts, ANNA);
    let impatient = async {
        alfa.mailboxes.waiting(ANNA, 2).await;
        let begun = Instant::now();
        let third = hand(&mailboxes, Quota::Counts, "ANNA@pec.alfa.test").await;
        assert!(matches!(&third, Handed::NotYet(why) if why.contains("has not answered")), "{third:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "Postfix's connection is free again soon");
        // For the next one that is known.
        let begun = Instant::now();
        assert!(matches!(hand(&mailboxes, Quota::Counts, ANNA).await, Handed::NotYet(_)));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        // More than connections for all mailboxes together.
        for _ in 0..40 {
            assert_eq!(hand(&mailboxes, Quota::Counts, ALDO).await, Handed::Yes);
        }
        alfa.mailboxes.unlock(ANNA);
    };
    let (first, second, ()) = tokio::join!(hands(), hands(), impatient);
    assert_eq!((first, second), (Handed::Yes, Handed::Yes), "and they have their answer when it comes");
    assert_eq!(hands().await, Handed::Yes);
}

#[tokio::test]
async fn whether_a_mailbox_exists_is_what_the_server_says_of_it_twice() {
    let network = Network::new().await;
    let alfa = &network.alfa;
    let asked = |answer: Option<&'static str>| async move {
        alfa.mailboxes.answer_recipient(ANNA, answer);
        exists(alfa).await
    };
    assert_eq!(asked(None).await, Ok(true));
    // Full, closed, locked: there is one.
    for answer in ["552 5.2.2 full", "550 5.2.1 closed", "452 4.2.2 full", "451 4.2.0 locked"] {
        assert_eq!(asked(Some(answer)).await, Ok(true), "{answer}");
    }
    alfa.mailboxes.asked();
    assert_eq!(asked(Some("550 5.1.1 no such user")).await, Ok(false));
    assert_eq!(alfa.mailboxes.asked(), [ANNA, ANNA]);
    // While the list of users is written it says so too, once.
    let between = async {
        while alfa.mailboxes.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        alfa.mailboxes.answer_recipient(ANNA, None);
    };
    assert_eq!(tokio::join!(exists(alfa), between).0, Ok(true));
    // Neither yes nor no.
    for answer in ["450 4.1.1 no such user, for now", "451 4.3.0 later", "554 5.7.1 not from you"] {
        let error = asked(Some(answer)).await.unwrap_err();
        assert!(error.contains(answer) && error.contains(ANNA), "{error}");
    }
    let settings = Settings {
        mailbox_lmtp: Socket::Unix(network.directory.path().join("nobody")),
        ..alfa.settings.clone()
    };
    let error = Mailboxes::new(&settings).exists(&Address::parse(ANNA).unwrap()).await.unwrap_err();
    assert!(matches!(error, MailboxError::Failed(_)), "{error}");
}
