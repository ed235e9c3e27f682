//! A web server for revocation lists and the directory of providers, with TLS where clients must have a
//! certificate: real sockets, files that can be exchanged, and it can go away and come back.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use openssl::ssl::{SslAcceptor, SslMethod, SslVerifyMode};

use crate::pki::{Ca, new_key};

type Files = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// The server.
pub struct FileServer {
    address: SocketAddr,
    files: Files,
    asked: Arc<Mutex<Vec<String>>>,
    tls: Option<SslAcceptor>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl FileServer {
    /// Starts without a file.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same over HTTPS, as `localhost` with a certificate of `ca`, for clients whose certificate `ca` or
    /// one below it has issued.
    pub fn start_https(ca: &Ca) -> Self {
        let key = new_key(2048);
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_certificate(&ca.server("localhost", &key)).unwrap();
        acceptor.set_private_key(&key).unwrap();
        acceptor.cert_store_mut().add_cert(ca.certificate.clone()).unwrap();
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        Self::start_with(Some(acceptor.build()))
    }

    fn start_with(tls: Option<SslAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Self { address, files: Files::default(), asked: Arc::default(), tls, running: None };
        server.serve(listener);
        server
    }

    /// The address of a file.
    pub fn url(&self, name: &str) -> String {
        match self.tls {
            None => format!("http://{}/{name}", self.address),
            Some(_) => format!("https://localhost:{}/{name}", self.address.port()),
        }
    }

    /// Puts a file there.
    pub fn put(&self, name: &str, content: Vec<u8>) {
        self.files.lock().unwrap().insert(format!("/{name}"), content);
    }

    /// How often it was asked for anything.
    pub fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// Goes away: connections are refused from now on.
    pub fn stop(&mut self) {
        if let Some((stopped, thread)) = self.running.take() {
            stopped.store(true, Ordering::SeqCst);
            // Wakes it up.
            drop(std::net::TcpStream::connect(self.address));
            thread.join().unwrap();
        }
    }

    /// Comes back at the same place.
    pub fn come_back(&mut self) {
        self.stop();
        self.serve(TcpListener::bind(self.address).unwrap());
    }

    fn serve(&mut self, listener: TcpListener) {
        let stopped = Arc::new(AtomicBool::new(false));
        let (files, asked, ends) = (Arc::clone(&self.files), Arc::clone(&self.asked), Arc::clone(&stopped));
        let tls = self.tls.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                match &tls {
                    None => answer(stream, &files, &asked),
                    // Who has no certificate is not answered.
                    Some(tls) => tls.accept(stream).map_or((), |stream| answer(stream, &files, &asked)),
                }
            }
        });
        self.running = Some((stopped, thread));
    }
}

fn answer(mut stream: impl Read + Write, files: &Files, asked: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(&mut stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    if request.is_empty() {
        return;
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let file = files.lock().unwrap().get(&path).cloned();
    asked.lock().unwrap().push(path);
    let (status, body) = file.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Whoever does not read it has lost interest.
    let _ = stream.write_all(&[head.as_bytes(), &body].concat());
    let _ = stream.flush();
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.stop();
    }
}
