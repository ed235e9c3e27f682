//! The way from a program to PostgreSQL, which can be cut at any statement: before it, or when it is done and
//! the program has not heard so. Nothing gets through after that, as after a crash in that moment.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The way of one program; each of its connections is one of the server's.
pub(crate) struct Wire {
    /// By which `pec_database` the program goes this way.
    pub(crate) database: String,
    state: Arc<State>,
}

struct State {
    server: String,
    /// How many statements still get through, and whether the one after them is executed.
    cut: Mutex<Option<(usize, bool)>>,
    is_cut: watch::Sender<bool>,
}

impl Wire {
    /// The way to this database.
    pub(crate) async fn lay(database: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut host, mut port, mut rest) = ("127.0.0.1", "5432", String::new());
        for part in database.split(' ') {
            match part.split_once('=').unwrap() {
                ("host", value) => host = value,
                ("port", value) => port = value,
                _ => rest = format!("{rest} {part}"),
            }
        }
        let database = format!("host=127.0.0.1 port={}{rest}", listener.local_addr().unwrap().port());
        let state = Arc::new(State {
            server: format!("{host}:{port}"),
            cut: Mutex::new(None),
            is_cut: watch::Sender::new(false),
        });
        let wire = Self { database, state: Arc::clone(&state) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // What breaks off breaks off for both.
                tokio::spawn(carry(client, Arc::clone(&state)));
            }
        });
        wire
    }

    /// So many statements get through yet; the one after them is still executed, or not even that.
    pub(crate) fn cut_after(&self, statements: usize, and_one_unheard: bool) {
        *self.state.cut.lock().unwrap() = Some((statements, and_one_unheard));
    }

    /// All is well again for whoever connects anew. `true`: it was cut meanwhile.
    pub(crate) fn mend(&self) -> bool {
        *self.state.cut.lock().unwrap() = None;
        self.state.is_cut.send_if_modified(|is_cut| std::mem::replace(is_cut, false))
    }
}

enum Way {
    Through,
    Unheard,
    Cut,
}

impl State {
    /// A statement comes.
    fn way(&self) -> Way {
        let mut cut = self.cut.lock().unwrap();
        match &mut *cut {
            None => Way::Through,
            Some((0, true)) => {
                *cut = Some((0, false));
                Way::Unheard
            }
            Some((0, false)) => Way::Cut,
            Some((left, _)) => {
                *left -= 1;
                Way::Through
            }
        }
    }
}

/// One connection. Of the protocol (PostgreSQL's manual, "Message Flow") it knows where messages end, which
/// of them execute something (Execute, Query), that Sync ends a request, and that ReadyForQuery ends its
/// answer.
async fn carry(mut client: TcpStream, state: Arc<State>) -> io::Result<()> {
    let mut is_cut = state.is_cut.subscribe();
    if *is_cut.borrow_and_update() {
        return Ok(());
    }
    let mut server = TcpStream::connect(&state.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut asked, mut answered) =
        (Messages { without_type: true, ..Messages::default() }, Messages::default());
    let (mut request, mut executes, mut unanswered, mut unheard) = (Vec::new(), false, 0, false);
    loop {
        tokio::select! {
            _ = is_cut.changed() => return Ok(()),
            read = client.read_buf(&mut asked.bytes) => if read? == 0 { return Ok(()) },
            read = server.read_buf(&mut answered.bytes) => if read? == 0 { return Ok(()) },
        }
        while let Some((kind, message)) = asked.next() {
            if unheard {
                continue;
            }
            request.extend_from_slice(&message);
            executes |= matches!(kind, b'E' | b'Q');
            if !matches!(kind, b'S' | b'Q' | b'X' | 0) {
                continue;
            }
            match if executes { state.way() } else { Way::Through } {
                Way::Through => {}
                Way::Unheard => unheard = true,
                Way::Cut => {
                    state.is_cut.send_replace(true);
                    return Ok(());
                }
            }
            unanswered += usize::from(kind != b'X');
            server.write_all(&std::mem::take(&mut request)).await?;
            executes = false;
        }
        while let Some((kind, message)) = answered.next() {
            unanswered -= usize::from(kind == b'Z');
            if !unheard {
                client.write_all(&message).await?;
            } else if unanswered == 0 {
                state.is_cut.send_replace(true);
                return Ok(());
            }
        }
    }
}

/// Bytes that come, as messages.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    /// The first one of a client begins with its length.
    without_type: bool,
}

impl Messages {
    /// The next whole message and its type.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let start = usize::from(!self.without_type);
        let length: [u8; 4] = self.bytes.get(start..start + 4)?.try_into().unwrap();
        let end = start + u32::from_be_bytes(length) as usize;
        let message = self.bytes.get(..end)?.to_vec();
        self.bytes.drain(..end);
        let kind = if self.without_type { 0 } else { message[0] };
        self.without_type = false;
        Some((kind, message))
    }
}
