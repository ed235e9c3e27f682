//! How servers are asked over HTTP: the CAs' lists, the directory of providers, the TSA, witnesses.
//!
//! Promise: a question ends in the time that it is given, from the connection to the last byte; a server
//! sends us elsewhere no more often than allowed, and an answer longer than allowed is an error. `http_proxy`
//! and `https_proxy` of the environment hold. It blocks: callers have a thread for it.

use std::time::Duration;

use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use ureq::Agent;
use ureq::http::Response;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

/// What a question may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long it may take, from the connection to the last byte.
    pub patience: Duration,
    /// How many times the server may send us elsewhere.
    pub redirects: u32,
    /// The longest answer that is read, in bytes.
    pub largest: u64,
}

/// Who is believed in TLS, and by what the server knows us.
#[derive(Debug)]
pub struct Tls<'a> {
    /// Who may vouch for the server.
    pub cas: &'a [X509],
    /// Our certificate, then those above it.
    pub certificates: &'a [X509],
    /// The certificate's key.
    pub key: &'a PKey<Private>,
}

/// Asks servers.
#[derive(Debug, Clone)]
pub struct Http {
    agent: Agent,
    largest: u64,
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// The status: 200 ...
    pub status: u16,
    /// `Last-Modified`, as it stands there.
    pub last_modified: Option<String>,
    /// What came.
    pub body: Vec<u8>,
}

impl Http {
    /// Asks with and without TLS. What comes is signed by itself; the system's CAs vouch for a server that
    /// speaks TLS.
    pub fn new(limits: Limits) -> Self {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        Self::with(tls, false, limits)
    }

    /// Asks over TLS alone, and says who we are. The error is OpenSSL's.
    pub fn over_tls(tls: &Tls<'_>, limits: Limits) -> Result<Self, String> {
        let pem = tls.key.private_key_to_pem_pkcs8().map_err(|e| e.to_string())?;
        let key = PrivateKey::from_pem(&pem).map_err(|e| e.to_string())?;
        let client = ClientCert::new_with_certs(&for_tls(tls.certificates)?, key);
        let tls = TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(RootCerts::new_with_certs(&for_tls(tls.cas)?))
            .client_cert(Some(client))
            .build();
        Ok(Self::with(tls, true, limits))
    }

    fn with(tls: TlsConfig, https_only: bool, limits: Limits) -> Self {
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(https_only)
            .timeout_global(Some(limits.patience))
            .max_redirects(limits.redirects)
            .http_status_as_error(false);
        Self { agent: config.build().new_agent(), largest: limits.largest }
    }

    /// What lies at `url`. Any status but success is an error, whatever comes with it.
    pub fn get(&self, url: &str) -> Result<Answer, String> {
        let response = self.agent.get(url).call().map_err(|e| e.to_string())?;
        succeeded(response.status().as_u16())?;
        self.answer(response)
    }

    /// Sends `content`, of this media type, to `url`. What the status means is the caller's to say.
    pub fn post(&self, url: &str, media_type: &str, content: &[u8]) -> Result<Answer, String> {
        let asked = self.agent.post(url).header("Content-Type", media_type).send(content);
        self.answer(asked.map_err(|e| e.to_string())?)
    }

    fn answer(&self, mut response: Response<ureq::Body>) -> Result<Answer, String> {
        let last_modified = response.headers().get("Last-Modified");
        let last_modified = last_modified.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.body_mut().with_config().limit(self.largest).read_to_vec();
        Ok(Answer {
            status: response.status().as_u16(),
            last_modified,
            body: body.map_err(|e| e.to_string())?,
        })
    }
}

impl Answer {
    /// The answer, unless its status says that it is none.
    pub fn succeeded(self) -> Result<Self, String> {
        succeeded(self.status).map(|()| self)
    }
}

fn succeeded(status: u16) -> Result<(), String> {
    // As ureq says it.
    if status < 400 { Ok(()) } else { Err(format!("http status: {status}")) }
}

fn for_tls(certificates: &[X509]) -> Result<Vec<Certificate<'static>>, String> {
    let of = |certificate: &X509| {
        certificate.to_der().map(|der| Certificate::from_der(&der).to_owned()).map_err(|e| e.to_string())
    };
    certificates.iter().map(of).collect()
}
