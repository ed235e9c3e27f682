//! A program that runs: its [`life`] from start to end, the [`world`] that it goes by, and whom it asks.
//!
//! Promise: nothing here knows a protocol by which mail comes. What a program asks of others (database,
//! token, virus scanner, mailbox server, CAs, directory) either is known or is an error, and then mail waits;
//! what happens besides messages is written into the retained log ([`program_rows`]).

pub mod crls;
pub mod directories;
pub mod infected;
pub mod life;
pub mod mailbox;
pub mod program_rows;
pub mod scanner;
pub mod scanner_watch;
pub mod turns;
pub mod world;

/// From this size on (bytes), hashing, signing and verifying are work for a thread of their own.
pub const LARGE: usize = 1024 * 1024;

/// Does `work` on so many `bytes`; where they are [`LARGE`], this thread's other tasks go on elsewhere
/// meanwhile. Whatever reads a message to its end goes through here.
pub fn sized<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes < LARGE { work() } else { tokio::task::block_in_place(work) }
}

/// SHA-256 of a message, or of what lies in one.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    sized(bytes.len(), || openssl::sha::sha256(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_a_large_message_is_read_other_tasks_go_on() {
        let one_thread =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (said, hears) = std::sync::mpsc::channel();
        let heard = one_thread.block_on(async {
            tokio::spawn(async move {
                let other = tokio::spawn(async move { said.send("the other task").unwrap() });
                let heard = sized(LARGE, || hears.recv().unwrap());
                other.await.unwrap();
                heard
            })
            .await
        });
        assert_eq!(heard.unwrap(), "the other task");
    }

    #[test]
    fn the_programs_hash_messages_here() {
        for room in ["access", "incoming", "delivery", "milter"] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(room).join("src");
            for file in std::fs::read_dir(folder).unwrap() {
                let file = file.unwrap().path();
                let text = std::fs::read_to_string(&file).unwrap();
                let ours = text.split("#[cfg(test)]").next().unwrap();
                assert!(!ours.contains("openssl::sha"), "{}: use pec_program::sha256", file.display());
            }
        }
    }
}
