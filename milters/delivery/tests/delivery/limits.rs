//! What holds up what: memory, locked mailboxes, the end of the program.

use std::time::Duration;

use pec_state::rows::PassedKind;
use pec_test_support::lmtp::Client;
use pec_test_support::network::{Network, envelope, eventually};
use pec_test_support::postfix::Mail;
use tokio::time::timeout;

use crate::scene::{ALDO, ANNA, BRUNO, CARLO, Delivery, ENVID, LETTER, only, to};

/// A message of about so many bytes that a milter let pass.
async fn passed(alfa: &Delivery, to: &str, size: usize, envid: &str) -> Mail {
    let text = format!(
        "From: x@posta.test\nTo: {to}\nSubject: x\n\n{}",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\n".repeat(size / 64)
    );
    let mail = Mail::submitted("x@posta.test", &[to], text.as_bytes());
    alfa.passes(&mail, PassedKind::Anomalia, &[to], envid).await;
    mail
}

async fn with_memory(network: &Network, bytes: u64) -> Delivery {
    let mut world = network.world(&network.alfa).await;
    world.settings.delivery_memory_limit = bytes;
    Delivery::start_in(network, &network.alfa, world).await
}

/// A connection that has said all but the message, which it may not say yet.
async fn at_data(alfa: &Delivery, mail: &Mail, envid: &str, size: usize) -> Client {
    let mut client = Client::connect(&alfa.to_mailboxes).await;
    assert_eq!(client.envelope(mail, Some(envid), size).await, [None]);
    client.say("DATA\r\n").await;
    client
}

const SOON: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn no_more_messages_are_held_than_the_memory_is_for() {
    let network = Network::new().await;
    let alfa = with_memory(&network, 64 * 1024).await;
    let (first, second, small) = (
        passed(&alfa, ANNA, 20_000, "1").await,
        passed(&alfa, ALDO, 20_000, "2").await,
        passed(&alfa, ALDO, 2000, "3").await,
    );
    alfa.mailboxes.lock(ANNA);
    let mut in_hand = at_data(&alfa, &first, "1", 20_000).await;
    assert!(in_hand.hear().await.unwrap().starts_with("354"));
    in_hand.message(&first.to_bytes()).await;
    alfa.mailboxes.waiting(ANNA, 1).await;
    // Twice the message is what it counts: this one is too much, and the client keeps it until there is room.
    let mut waits = at_data(&alfa, &second, "2", 20_000).await;
    assert!(timeout(SOON, waits.hear()).await.is_err());
    alfa.mailboxes.unlock(ANNA);
    assert!(in_hand.hear().await.unwrap().starts_with("250"));
    assert!(waits.hear().await.unwrap().starts_with("354"));
    waits.message(&second.to_bytes()).await;
    assert!(waits.hear().await.unwrap().starts_with("250"));
    alfa.delivered(&small, "3").await;
    assert_eq!(alfa.mailboxes.taken().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_the_memory_goes_alone() {
    let network = Network::new().await;
    let alfa = with_memory(&network, 64 * 1024).await;
    let (large, small) = (passed(&alfa, ANNA, 300_000, "1").await, passed(&alfa, ALDO, 2000, "2").await);
    alfa.delivered(&large, "1").await;
    alfa.delivered(&small, "2").await;
    assert_eq!(alfa.mailboxes.taken().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_mailbox_holds_up_nobody_else() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO], LETTER);
    let other = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let third = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO, CARLO], "bb11", ENVID).await;
    beta.in_custody(&other, &[BRUNO], "bb22", "2").await;
    beta.in_custody(&third, &[BRUNO], "bb33", "3").await;
    beta.mailboxes.lock(BRUNO);
    let to_bruno = to(&mail, BRUNO);
    let goes_on = async {
        beta.mailboxes.waiting(BRUNO, 2).await;
        beta.delivered(&to(&mail, CARLO), ENVID).await;
        // A third one for him is not handed over, so it is not the next that stands there.
        let why = beta.waits(&third, "3").await;
        assert!(why.contains("not answered for others"), "{why}");
        beta.mailboxes.unlock(BRUNO);
    };
    tokio::join!(beta.delivered(&to_bruno, ENVID), beta.delivered(&other, "2"), goes_on);
    assert_eq!(beta.rows("SELECT what FROM handover WHERE message = '3' ORDER BY 1").await, ["no"]);
    beta.delivered(&third, "3").await;
    assert_eq!(beta.mailboxes.taken().len(), 4);
    assert_eq!(beta.rows("SELECT DISTINCT time_source FROM fact").await, ["mailbox"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_of_the_program_what_is_being_handed_over_is_finished() {
    let network = Network::new().await;
    let mut beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.mailboxes.lock(BRUNO);
    let mut client = at_data(&beta, &mail, ENVID, 1000).await;
    assert!(client.hear().await.unwrap().starts_with("354"));
    client.message(&mail.to_bytes()).await;
    beta.mailboxes.waiting(BRUNO, 1).await;
    beta.stop.send_replace(true);
    // Nobody else is taken, and the program stays.
    assert!(
        timeout(SOON, async {
            beta.serving.join_next().await;
            beta.serving.join_next().await
        })
        .await
        .is_err()
    );
    assert!(tokio::net::UnixStream::connect(&beta.to_mailboxes).await.is_err());
    beta.mailboxes.unlock(BRUNO);
    assert!(client.hear().await.unwrap().starts_with("250"));
    while let Some(ended) = timeout(Duration::from_secs(10), beta.serving.join_next()).await.unwrap() {
        ended.unwrap();
    }
    only(beta.mailboxes.taken());
    beta.sent_out();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_handed_over_is_finished_though_postfix_has_gone_and_is_not_done_again() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.mailboxes.lock(BRUNO);
    let mut client = at_data(&beta, &mail, ENVID, 1000).await;
    assert!(client.hear().await.unwrap().starts_with("354"));
    client.message(&mail.to_bytes()).await;
    beta.mailboxes.waiting(BRUNO, 1).await;
    drop(client);
    beta.mailboxes.unlock(BRUNO);
    eventually(async || (beta.rows("SELECT handed_over::text FROM fact").await == ["true"]).then_some(()))
        .await;
    only(beta.mailboxes.taken());
    beta.sent_out();
    beta.delivered(&mail, ENVID).await;
    beta.nobody_got_anything();
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_end_does_not_come_is_none() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let mut client = at_data(&beta, &mail, ENVID, 1000).await;
    assert!(client.hear().await.unwrap().starts_with("354"));
    client.say(std::str::from_utf8(&mail.to_bytes()).unwrap()).await;
    drop(client);
    // Whoever comes next is not held up by it.
    beta.delivered(&mail, ENVID).await;
    only(beta.mailboxes.taken());
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
}
