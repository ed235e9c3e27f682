//! A milter connection whose answers leave together: what is written is sent when the milter reads again.
//!
//! A changed message is some twenty protocol packets that Postfix answers none of. One by one, each wakes
//! Postfix up; together they are read at once. What Postfix is to hear in the middle of the work (that it
//! goes on) is sent at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use indymilter::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many bytes are held at most. A body's piece is larger, and is not copied.
const MOST: usize = 8 * 1024;

/// `SMFIR_PROGRESS`: its length and its kind.
const PROGRESS: [u8; 5] = [0, 0, 0, 1, b'p'];

/// A listener whose connections hold what is written until the next read.
pub(crate) struct Coalesced<L>(pub(crate) L);

impl<L: Listener> Listener for Coalesced<L> {
    type Io = Held<L::Io>;

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Self::Io>> {
        self.0.poll_accept(context).map_ok(|stream| Held { stream, held: Vec::new() })
    }
}

/// A connection that holds what is written until the next read.
pub(crate) struct Held<S> {
    stream: S,
    held: Vec<u8>,
}

impl<S: AsyncWrite + Unpin> Held<S> {
    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.held))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.send(context))?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes == PROGRESS || self.held.len() + bytes.len() > MOST {
            ready!(self.send(context))?;
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        }
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use indymilter::{Callbacks, Config, ContextActions as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (Held<DuplexStream>, DuplexStream) {
        let (ours, postfix) = duplex(1 << 20);
        (Held { stream: ours, held: Vec::new() }, postfix)
    }

    async fn packet(held: &mut Held<DuplexStream>, bytes: &[u8]) {
        held.write_all(bytes).await.unwrap();
        held.flush().await.unwrap();
    }

    /// What has arrived by now.
    fn arrived(postfix: &mut DuplexStream) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        let mut into = ReadBuf::new(&mut bytes);
        let _ = Pin::new(postfix).poll_read(&mut Context::from_waker(std::task::Waker::noop()), &mut into);
        into.filled().to_vec()
    }

    #[tokio::test]
    async fn packets_leave_together_when_the_next_is_awaited() {
        let (mut held, mut postfix) = pair();
        packet(&mut held, b"one").await;
        packet(&mut held, b"two").await;
        assert_eq!(arrived(&mut postfix), b"");
        postfix.write_all(b"x").await.unwrap();
        assert_eq!(held.read_u8().await.unwrap(), b'x');
        assert_eq!(arrived(&mut postfix), b"onetwo");
    }

    #[tokio::test]
    async fn that_the_work_goes_on_is_said_at_once() {
        let (mut held, mut postfix) = pair();
        packet(&mut held, &PROGRESS).await;
        assert_eq!(arrived(&mut postfix), PROGRESS);
        packet(&mut held, b"one").await;
        packet(&mut held, &PROGRESS).await;
        assert_eq!(arrived(&mut postfix), [b"one", &PROGRESS[..]].concat());
    }

    #[tokio::test]
    async fn what_is_long_is_not_held_and_keeps_its_place() {
        let (mut held, mut postfix) = pair();
        packet(&mut held, b"one").await;
        packet(&mut held, &[b'x'; MOST]).await;
        packet(&mut held, b"two").await;
        assert_eq!(arrived(&mut postfix), [b"one", &[b'x'; MOST][..]].concat());
        held.shutdown().await.unwrap();
        assert_eq!(arrived(&mut postfix), b"two");
    }

    /// As indymilter writes it, over a real connection, while the end of the message is never decided.
    #[tokio::test]
    async fn postfix_hears_that_the_work_goes_on() {
        async fn ask(postfix: &mut TcpStream, kind: u8, content: &[u8]) -> Vec<u8> {
            let length = u32::try_from(content.len() + 1).unwrap();
            postfix.write_all(&[&length.to_be_bytes()[..], &[kind], content].concat()).await.unwrap();
            let length = postfix.read_u32().await.unwrap();
            let mut answer = vec![0; length.try_into().unwrap()];
            postfix.read_exact(&mut answer).await.unwrap();
            answer
        }

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut postfix = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let callbacks = Callbacks::<()>::new().on_eom(|context| {
            Box::pin(async move {
                context.actions.progress().await.unwrap();
                std::future::pending().await
            })
        });
        tokio::spawn(indymilter::run(
            Coalesced(listener),
            callbacks,
            Config::default(),
            std::future::pending::<()>(),
        ));
        // Postfix knows every option, and so leaves out what this milter has no callback for.
        assert_eq!(ask(&mut postfix, b'O', &[0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0x1f, 0xff, 0xff]).await[0], b'O');
        assert_eq!(ask(&mut postfix, b'E', b"").await, b"p");
    }
}
