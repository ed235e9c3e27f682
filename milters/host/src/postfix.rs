//! Postfix, as `postconf` tells it: main.cf and master.cf in force.
//!
//! Promise: what a service goes by is one look-up, and on which ways mail could pass by our programs is said in one
//! place, for the programs themselves and for `pecctl check`.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// What is in force in a Postfix.
#[derive(Debug, Clone, Default)]
pub struct Postfix {
    /// `postconf -x`: every parameter, expanded.
    main: HashMap<String, String>,
    /// `postconf -F -x` and `postconf -P -x`.
    pub services: Vec<Service>,
}

impl Postfix {
    /// Reads the output of `postconf -x`, `postconf -F -x */*/command */*/process_limit` and `postconf -P
    /// -x`.
    pub fn parse(main: &str, fields: &str, options: &str) -> Self {
        let pair = |line: &str| line.split_once('=').map(|(n, v)| (n.trim().to_owned(), v.trim().to_owned()));
        let mut services: Vec<Service> = Vec::new();
        let field = |what: &'static str| {
            let of_service = move |(path, value): (String, String)| {
                let (name, kind) = path.strip_suffix(what)?.rsplit_once('/')?;
                Some((name.to_owned(), kind.to_owned(), value))
            };
            fields.lines().filter_map(pair).filter_map(of_service)
        };
        for (name, kind, command) in field("/command") {
            let program = command.split_whitespace().next().unwrap_or_default().to_owned();
            services.push(Service { name, kind, program, processes: None, options: Vec::new() });
        }
        for (name, kind, processes) in field("/process_limit") {
            if let Some(service) = services.iter_mut().find(|s| s.name == name && s.kind == kind) {
                service.processes = processes.parse().ok();
            }
        }
        for (path, value) in options.lines().filter_map(pair) {
            let mut parts = path.rsplitn(3, '/');
            if let (Some(option), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next())
                && let Some(service) = services.iter_mut().find(|s| s.name == name && s.kind == kind)
            {
                service.options.push((option.to_owned(), value));
            }
        }
        Self { main: main.lines().filter_map(pair).collect(), services }
    }

    /// Whether this Postfix finds other servers by the DNS.
    pub fn asks_dns(&self) -> bool {
        self.main("smtp_dns_support_level") != "disabled"
    }

    /// The same with another value in main.cf.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.main.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The value in main.cf.
    pub fn main(&self, name: &str) -> &str {
        self.main.get(name).map_or("", String::as_str)
    }

    /// Whether master.cf has a service of this name and type.
    pub fn has_service(&self, name: &str, kind: &str) -> bool {
        self.services.iter().any(|s| s.name == name && s.kind == kind)
    }

    /// The value that a service goes by.
    pub fn of<'a>(&'a self, service: &'a Service, name: &str) -> &'a str {
        service.option(name).unwrap_or_else(|| self.main(name))
    }

    /// What every process of Postfix goes by: (value, the service that says so or none).
    pub fn everywhere(&self, name: &str) -> Vec<(&str, Option<&Service>)> {
        let options = self.services.iter().filter_map(|s| s.option(name).map(|value| (value, Some(s))));
        std::iter::once((self.main(name), None)).chain(options).collect()
    }

    /// A value of a shipped file with `$name` and `${name?{set}:{otherwise}}` replaced.
    pub fn expanded(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out += before;
            if let Some((name, set, otherwise, behind)) = choice(after) {
                out += &self.expanded(if self.main(name).is_empty() { otherwise } else { set });
                rest = behind;
                continue;
            }
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
            out += self.main(&after[..end]);
            rest = &after[end..];
        }
        out + rest
    }

    /// Ways on which mail could pass by pec-access or pec-incoming, each with the program that it passes by. Only
    /// what is certain: of the ports by which the world and our users come. A socket beside ours, in the directory
    /// that nobody else may enter, is one that passes mail on to ours.
    pub fn ways_past(&self) -> Vec<WayPast> {
        let mut ways = Vec::new();
        for service in self.services.iter().filter(|s| s.program == "smtpd" && s.is_for_others()) {
            let (parameter, value) = ("smtpd_milters", self.of(service, "smtpd_milters"));
            let listed = milters(value);
            let takes_passwords = self.of(service, "smtpd_sasl_auth_enable") == "yes";
            let expected = if takes_passwords { PROGRAMS[0] } else { PROGRAMS[1] };
            let of_ours = PROGRAMS.iter().find_map(|(program, parameter, fallback)| {
                let socket = Some(self.main(parameter)).filter(|s| !s.is_empty()).unwrap_or(fallback);
                let found = listed.iter().find(|m| is_same_socket(&m.socket, socket))?;
                Some((*program, found))
            });
            let of_ours = of_ours.or_else(|| {
                let beside = listed.iter().find(|m| self.is_beside_ours(&m.socket))?;
                Some((expected.0, beside))
            });
            let way = |program, parameter: &str, value: &str, mend: String| WayPast {
                program,
                what: format!("master.cf {}: {parameter}", service.id()),
                value: value.to_owned(),
                mend,
            };
            let Some((program, milter)) = of_ours else {
                let mend = format!("postconf -P '{}/smtpd_milters={}'", service.id(), shipped(expected));
                ways.push(way(expected.0, parameter, value, mend));
                continue;
            };
            let action = milter.default_action.as_deref();
            let action = action.unwrap_or_else(|| self.of(service, "milter_default_action"));
            if matches!(action, "accept" | "quarantine") {
                let mend = match milter.default_action {
                    Some(_) => {
                        format!("postfix-conf/apply sets default_action=tempfail for {}", service.id())
                    }
                    None => "postconf -e milter_default_action=tempfail".to_owned(),
                };
                ways.push(way(program, "default action of its milter", action, mend));
            }
            let overrides = self.of(service, "receive_override_options");
            if overrides.contains("no_milters") {
                let mend = format!("postconf -P '{}/receive_override_options='", service.id());
                ways.push(way(program, "receive_override_options", overrides, mend));
            }
        }
        ways
    }

    /// Whether a socket lies beside that of pec-access or pec-incoming, and is none of ours that looks at other mail.
    fn is_beside_ours(&self, socket: &str) -> bool {
        let directory = |socket: &str| {
            socket.strip_prefix("unix:").and_then(|path| path.rsplit_once('/')).map(|(dir, _)| dir.to_owned())
        };
        let others = ["pec_local_milter", "pec_reports_milter"].map(|name| self.main(name));
        let is_other = others.iter().any(|other| is_same_socket(socket, other))
            || ["unix:pec/local", "unix:pec/reports"].iter().any(|other| is_same_socket(socket, other));
        let beside = |(_, parameter, fallback): &(&str, &str, &str)| {
            let ours = Some(self.main(parameter)).filter(|s| !s.is_empty()).unwrap_or(fallback);
            directory(ours).is_some() && directory(ours) == directory(socket)
        };
        !is_other && PROGRAMS.iter().any(beside)
    }

    /// Asks `postconf` for everything that is in force; `ours` names the parameters that are not Postfix's own.
    /// The error is the last line of its complaint.
    pub fn read(config_directory: &Path, ours: impl Iterator<Item = &'static str>) -> Result<Self, String> {
        // Ours are known to postconf only where another parameter names them.
        let named: String = ours.map(|name| format!("${{{name}?}}")).collect();
        let postconf = |arguments: &[&str]| {
            let mut command = Command::new("postconf");
            command
                .arg("-c")
                .arg(config_directory)
                .args(["-o", &format!("milter_macro_defaults={named}"), "-x"])
                .args(arguments);
            let output = command.output().map_err(|e| format!("postconf: {e}"))?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            let complaint = String::from_utf8_lossy(&output.stderr);
            Err(format!("postconf: {}", complaint.lines().last().unwrap_or_default()))
        };
        let postfix = Self::parse(
            &postconf(&[])?,
            &postconf(&["-F", "*/*/command", "*/*/process_limit"])?,
            &postconf(&["-P"])?,
        );
        // Just after a change postconf may tell the default.
        Ok(postfix.with("config_directory", &config_directory.display().to_string()))
    }
}

/// A way on which mail could pass by one of our programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayPast {
    /// By which: `pec-access`, `pec-incoming`.
    pub program: &'static str,
    /// The parameter.
    pub what: String,
    /// Its value.
    pub value: String,
    /// What mends it.
    pub mend: String,
}

/// A program, the parameter with its socket, and the socket where that is not set (postfix-conf/master.cf).
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("pec-access", "pec_access_milter", "unix:pec/access"),
    ("pec-incoming", "pec_incoming_milter", "unix:pec/incoming"),
];

/// As postfix-conf/master.cf has it.
fn shipped((_, parameter, fallback): (&str, &str, &str)) -> String {
    format!("{{${{{parameter}?{{${parameter}}}:{{{fallback}}}}},default_action=tempfail}}")
}

/// An entry of `smtpd_milters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Milter {
    /// `unix:pec/access`.
    pub socket: String,
    /// What Postfix does without it, where the entry says so.
    pub default_action: Option<String>,
}

/// The entries of a value of `smtpd_milters`, expanded: `socket`, or `{ socket, name=value, ... }`.
pub fn milters(value: &str) -> Vec<Milter> {
    let mut found = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
        if rest.is_empty() {
            return found;
        }
        let (entry, behind) = match rest.strip_prefix('{') {
            Some(inside) => inside.split_once('}').unwrap_or((inside, "")),
            None => rest.split_at(rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len())),
        };
        rest = behind;
        let mut words = entry.split([',', ' ', '\t']).map(str::trim).filter(|word| !word.is_empty());
        let Some(socket) = words.next() else { continue };
        // `name = value`, and `name=value`.
        let options = words.collect::<Vec<_>>().join(" ").replace(" =", "=").replace("= ", "=");
        let mut options = options.split(' ').filter_map(|option| option.split_once('='));
        let default_action = options.find(|(name, _)| *name == "default_action").map(|(_, v)| v.to_owned());
        found.push(Milter { socket: socket.to_owned(), default_action });
    }
}

/// Whether two spellings mean one socket. A path may be written from the root or from the queue's directory.
fn is_same_socket(one: &str, other: &str) -> bool {
    let ends_with = |long: &str, short: &str| {
        let path = |socket: &str| socket.strip_prefix("unix:").map(str::to_owned);
        match (path(long), path(short)) {
            (Some(long), Some(short)) if !short.starts_with('/') => long.ends_with(&format!("/{short}")),
            _ => false,
        }
    };
    one == other || ends_with(one, other) || ends_with(other, one)
}

/// `{name?{set}:{otherwise}}` at the beginning of `text`: name, both, and what is behind.
fn choice(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (name, rest) = text.strip_prefix('{')?.split_once("?{")?;
    let (set, rest) = rest.split_once("}:{")?;
    let (otherwise, rest) = rest.split_once('}')?;
    Some((name, set, otherwise, rest.strip_prefix('}')?))
}

/// A service of a master.cf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `smtp`, `127.0.0.1:25`.
    pub name: String,
    /// `inet`, `unix`, `pass`.
    pub kind: String,
    /// `smtpd`.
    pub program: String,
    /// How many processes at most; 0: as many as come. Nothing: Postfix's default.
    pub processes: Option<u32>,
    /// `-o name=value`.
    pub options: Vec<(String, String)>,
}

impl Service {
    /// Whether by it the world or our users come: port 25, 465 or 587, where others can reach it.
    fn is_for_others(&self) -> bool {
        let (host, port) = self.name.rsplit_once(':').unwrap_or(("", &self.name));
        let is_local = host.starts_with("127.") || matches!(host, "localhost" | "[::1]");
        let is_known = ["smtp", "25", "submission", "587", "submissions", "smtps", "465"].contains(&port);
        // Behind postscreen.
        let is_passed = self.kind == "pass" && self.name == "smtpd";
        is_passed || (self.kind == "inet" && is_known && !is_local)
    }

    /// As `postconf -P` names it: `smtp/inet`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.name, self.kind)
    }

    /// The value of this `-o` option.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// The same Postfix with something else.
impl Postfix {
    /// The same with another option of a service, or without it.
    pub fn with_option(mut self, service: &str, name: &str, value: Option<&str>) -> Self {
        if let Some(service) = self.services.iter_mut().find(|s| s.id() == service) {
            service.options.retain(|(n, _)| n != name);
            service.options.extend(value.map(|v| (name.to_owned(), v.to_owned())));
        }
        self
    }

    /// The same with another service that listens at a port.
    pub fn with_service(mut self, name: &str, program: &str) -> Self {
        self.services.push(Service {
            name: name.into(),
            kind: "inet".into(),
            program: program.into(),
            processes: None,
            options: Vec::new(),
        });
        self
    }

    /// The same with another bound of a service's processes.
    pub fn with_processes(mut self, name: &str, processes: Option<u32>) -> Self {
        if let Some(service) = self.services.iter_mut().find(|s| s.name == name) {
            service.processes = processes;
        }
        self
    }

    /// The same without a service.
    pub fn without_service(mut self, name: &str) -> Self {
        self.services.retain(|s| s.name != name);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Postfix 3.7 and 3.10 print what postfix-conf sets.
    fn postfix(main: &str) -> Postfix {
        let fields = "smtp/inet/command = smtpd\nsubmission/inet/command = smtpd\n\
            pecoutgoing/unix/command = smtpd\n127.0.0.1:10025/inet/command = smtpd\n";
        let options = "smtp/inet/smtpd_milters = {unix:pec/incoming,default_action=tempfail}\n\
            submission/inet/smtpd_milters = {unix:/var/spool/postfix/pec/access,default_action=tempfail}\n\
            submission/inet/smtpd_sasl_auth_enable = yes\npecoutgoing/unix/smtpd_milters =\n";
        Postfix::parse(&format!("milter_default_action = tempfail\n{main}"), fields, options)
    }

    fn past(postfix: &Postfix) -> Vec<(&'static str, String, String)> {
        postfix.ways_past().into_iter().map(|w| (w.program, w.what, w.value)).collect()
    }

    #[test]
    fn what_ships_leaves_no_way_whatever_main_cf_says() {
        for main in [
            "",
            "milter_default_action = accept\n",
            "pec_access_milter = unix:pec/access\npec_incoming_milter = unix:pec/incoming\n",
        ] {
            assert_eq!(past(&postfix(main)), [], "{main}");
        }
    }

    #[test]
    fn a_missing_milter_or_one_without_which_mail_is_accepted_is_a_way() {
        let none = postfix("").with_option("smtp/inet", "smtpd_milters", Some(""));
        assert_eq!(
            past(&none),
            [("pec-incoming", "master.cf smtp/inet: smtpd_milters".to_owned(), String::new())]
        );
        let other = postfix("").with_option("submission/inet", "smtpd_milters", Some("inet:localhost:8891"));
        assert_eq!(past(&other)[0].0, "pec-access", "who takes passwords is for pec-access");
        let accepted = "{ unix:pec/access, default_action = accept }";
        let accepts = postfix("").with_option("submission/inet", "smtpd_milters", Some(accepted));
        assert_eq!(past(&accepts)[0].2, "accept");
        let plain = postfix("milter_default_action = accept\n").with_option(
            "smtp/inet",
            "smtpd_milters",
            Some("inet:localhost:11332, unix:pec/incoming"),
        );
        assert_eq!(past(&plain)[0].2, "accept");
        assert_eq!(past(&plain.with("milter_default_action", "reject")), []);
        let beside = postfix("").with_option("smtp/inet", "smtpd_milters", Some("unix:pec/tap-incoming"));
        assert_eq!(past(&beside), [], "something that passes mail on");
        let reports = postfix("").with_option("smtp/inet", "smtpd_milters", Some("unix:pec/reports"));
        assert_eq!(past(&reports).len(), 1);
        assert_eq!(past(&postfix("").with_service("2525", "smtpd")), [], "`pecctl check` tells of it");
        assert_eq!(past(&postfix("").with_service("0.0.0.0:smtp", "smtpd")).len(), 1);
        let no_milters = postfix("").with_option("smtp/inet", "receive_override_options", Some("no_milters"));
        assert_eq!(past(&no_milters)[0].1, "master.cf smtp/inet: receive_override_options");
    }

    #[test]
    fn the_mend_is_what_ships() {
        let none = postfix("").with_option("smtp/inet", "smtpd_milters", Some(""));
        let mend = &none.ways_past()[0].mend;
        assert_eq!(
            mend,
            "postconf -P 'smtp/inet/smtpd_milters={${pec_incoming_milter?{$pec_incoming_milter}:\
            {unix:pec/incoming}},default_action=tempfail}'"
        );
        for program in PROGRAMS {
            let shipped = shipped(program);
            let master_cf = include_str!("../../../postfix-conf/master.cf");
            assert!(master_cf.contains(&shipped), "{shipped}");
        }
        let shipped = shipped(PROGRAMS[1]);
        assert_eq!(postfix("").expanded(&shipped), "{unix:pec/incoming,default_action=tempfail}");
        let moved = postfix("pec_incoming_milter = inet:127.0.0.1:9\n");
        assert_eq!(moved.expanded(&shipped), "{inet:127.0.0.1:9,default_action=tempfail}");
    }

    #[test]
    fn entries_are_read_as_postfix_does() {
        let read =
            |value| milters(value).into_iter().map(|m| (m.socket, m.default_action)).collect::<Vec<_>>();
        assert_eq!(
            read(
                "inet:a:1, {unix:b,default_action=tempfail} { unix:c, connect_timeout=3s, default_action = accept }"
            ),
            [
                ("inet:a:1".to_owned(), None),
                ("unix:b".to_owned(), Some("tempfail".to_owned())),
                ("unix:c".to_owned(), Some("accept".to_owned()))
            ]
        );
        assert_eq!(read(" , "), []);
    }
}
