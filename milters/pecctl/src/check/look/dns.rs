//! Asking the DNS for MX records, at the servers of /etc/resolv.conf.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::check::look::ask::Known;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Questions under way at once.
const AT_ONCE: usize = 50;

/// The servers of this machine.
pub(crate) fn servers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|address| address.trim().parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// The MX hosts of each domain in lower case; none where the DNS knows none.
pub(crate) async fn mx(
    mut domains: Vec<String>,
    servers: &[SocketAddr],
) -> Vec<(String, Known<Vec<String>>)> {
    domains.sort();
    let mut out = Vec::new();
    for chunk in domains.chunks(AT_ONCE) {
        let mut asking = JoinSet::new();
        for domain in chunk.iter().cloned() {
            let servers = servers.to_vec();
            asking.spawn(async move {
                let hosts = of_domain(&domain, &servers).await;
                (domain, hosts)
            });
        }
        out.extend(asking.join_all().await);
    }
    out.sort();
    out
}

async fn of_domain(domain: &str, servers: &[SocketAddr]) -> Known<Vec<String>> {
    let mut last = "/etc/resolv.conf names no server".to_owned();
    for server in servers {
        match timeout(PATIENCE, ask(domain, *server)).await {
            Ok(Ok(hosts)) => return Ok(hosts),
            Ok(Err(why)) => last = format!("{}: {why}", server.ip()),
            Err(_) => last = format!("{} does not answer", server.ip()),
        }
    }
    Err(last)
}

async fn ask(domain: &str, server: SocketAddr) -> Known<Vec<String>> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let id = u16::from_be_bytes(
        pec_core::identifier::fresh().map_err(|e| words(&e))?.as_bytes()[..2].try_into().unwrap_or_default(),
    );
    let mut query = Packet::new_query(id);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(domain).map_err(|e| words(&e))?;
    query.questions.push(Question::new(name, QTYPE::TYPE(TYPE::MX), QCLASS::CLASS(CLASS::IN), false));
    let query = query.build_bytes_vec().map_err(|e| words(&e))?;

    let here: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(here).await.map_err(|e| words(&e))?;
    socket.connect(server).await.map_err(|e| words(&e))?;
    socket.send(&query).await.map_err(|e| words(&e))?;
    let mut answer = vec![0; 65_535];
    let length = socket.recv(&mut answer).await.map_err(|e| words(&e))?;
    let answer = Packet::parse(&answer[..length]).map_err(|e| words(&e))?;
    if answer.id() != id || answer.has_flags(PacketFlag::TRUNCATION) {
        return Err("an answer that is cut, or to another question".to_owned());
    }
    match answer.rcode() {
        RCODE::NoError | RCODE::NameError => {}
        other => return Err(format!("it answers {other:?}")),
    }
    let hosts: HashSet<String> = answer
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::MX(mx) => Some(mx.exchange.to_string().trim_end_matches('.').to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    let mut hosts: Vec<String> = hosts.into_iter().collect();
    hosts.sort();
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use simple_dns::rdata::MX;
    use simple_dns::{Name, ResourceRecord};

    use super::*;

    /// A server that answers every question so.
    async fn server(rcode: RCODE, exchanges: &'static [&'static str]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut bytes = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut bytes).await.unwrap();
                let query = Packet::parse(&bytes[..length]).unwrap();
                assert!(query.has_flags(PacketFlag::RECURSION_DESIRED));
                let mut answer = Packet::new_reply(query.id());
                *answer.rcode_mut() = rcode;
                let asked = query.questions[0].qname.clone();
                for exchange in exchanges {
                    let mx = MX { preference: 10, exchange: Name::new(exchange).unwrap() };
                    answer.answers.push(ResourceRecord::new(asked.clone(), CLASS::IN, 60, RData::MX(mx)));
                }
                socket.send_to(&answer.build_bytes_vec().unwrap(), client).await.unwrap();
            }
        });
        address
    }

    async fn asked(servers: &[SocketAddr]) -> Known<Vec<String>> {
        mx(vec!["pec.alfa.test".into()], servers).await.remove(0).1
    }

    #[tokio::test]
    async fn the_mx_hosts_of_a_domain() {
        let good = server(RCODE::NoError, &["MAIL.gestore.alfa.test", "mx.elsewhere.test"]).await;
        assert_eq!(asked(&[good]).await.unwrap(), ["mail.gestore.alfa.test", "mx.elsewhere.test"]);
        assert_eq!(asked(&[server(RCODE::NameError, &[]).await]).await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_server_that_fails_is_no_answer_and_the_next_is_asked() {
        let bad = server(RCODE::ServerFailure, &[]).await;
        assert!(asked(&[bad]).await.unwrap_err().contains("ServerFailure"));
        assert!(asked(&[]).await.unwrap_err().contains("names no server"));
        let good = server(RCODE::NoError, &["mail.gestore.alfa.test"]).await;
        assert_eq!(asked(&[bad, good]).await.unwrap(), ["mail.gestore.alfa.test"]);
    }
}
