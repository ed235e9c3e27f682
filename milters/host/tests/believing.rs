//! Whom a signature is believed from: chains, name constraints, revocation lists (RFC 6109 s. 2.2.2).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use der::Encode as _;
use der::asn1::Ia5String;
use openssl::sha::sha256;
use openssl::x509::{X509, X509Extension};
use pec_core::clock::Moment;
use pec_core::smime::common_name;
use pec_core::smime::crl::{Place, Places};
use pec_core::smime::sign::detached;
use pec_core::smime::verify::{SignedBy, TooOld, TrustedCas, VerifyError};
use pec_host::crl_directory::{CrlDirectory, CrlError, ListTaken};
use pec_host::maillog;
use pec_host::read;
use pec_test_support::pki::{Ca, Keys, NOW, Revoked, crl_at, extension, only_for};
use tempfile::TempDir;
use x509_cert::ext::pkix::NameConstraints;
use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::crl::dp::IssuingDistributionPoint;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};

const ALFA: &str = "Alfa PEC S.p.A.";
const ADDRESS: &str = "posta-certificata@gestore.alfa.test";
const URL: &str = "http://ca.test/issuing.crl";
const DAY: i64 = 86_400;

fn at(seconds: i64) -> Moment {
    Moment::from_unix(seconds)
}

/// A root, an issuing CA, and a place for files.
struct Cas {
    directory: TempDir,
    root: Ca,
    issuing: Ca,
}

impl Cas {
    fn new() -> Self {
        Self::constrained(&[])
    }

    /// The issuing CA with these extensions.
    fn constrained(extensions: &[X509Extension]) -> Self {
        let root = Ca::root("Prova Root CA");
        let issuing = root.below("Prova CA 1", extensions);
        Self { directory: tempfile::tempdir().unwrap(), root, issuing }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn trusting(&self, ca: &Ca) -> TrustedCas {
        let file = self.path().join("ca.pem");
        fs::write(&file, ca.certificate.to_pem().unwrap()).unwrap();
        read::trusted_cas(&file).unwrap()
    }

    /// Alfa, whose certificate can be asked about at [`URL`].
    fn alfa(&self) -> Keys {
        self.issuing.provider(self.path(), ALFA, ADDRESS, &[crl_at(&[URL])])
    }

    fn crls(&self) -> Arc<CrlDirectory> {
        Arc::new(CrlDirectory::new(&self.path().join("crl")))
    }

    fn place(&self) -> Place {
        let places = Places::of(&self.alfa().certificate(), &self.issuing.certificate);
        places.http.into_iter().next().unwrap()
    }
}

/// A signature by `keys` over "x".
fn signature(keys: &Keys, address: &str) -> Vec<u8> {
    detached(&keys.signer(address, NOW).unwrap(), &sha256(b"x"), at(NOW)).unwrap()
}

fn judged(cas: &TrustedCas, keys: &Keys, now: i64) -> Result<SignedBy, VerifyError> {
    let address = &keys.certificate().subject_alt_names().unwrap()[0].email().unwrap().to_owned();
    cas.verify(b"x", &signature(keys, address), at(now))
}

#[track_caller]
fn not_verified(judged: Result<SignedBy, VerifyError>, says: &str) {
    match judged {
        Err(why @ (VerifyError::NotVerified(_) | VerifyError::Revoked { .. })) => {
            assert!(why.to_string().contains(says), "{why}")
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn not_known(judged: Result<SignedBy, VerifyError>, says: &str) {
    match judged {
        Err(VerifyError::NotKnown(why)) => assert!(why.to_string().contains(says), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rfc6109_2_2_2_name_constraints_hold_wherever_the_constrained_ca_stands() {
    let cas = Cas::constrained(&[only_for("gestore.alfa.test", ALFA)]);
    let provider = |name, address| cas.issuing.provider(cas.path(), name, address, &[]);
    let good = provider(ALFA, ADDRESS);
    let other_address = provider(ALFA, "posta-certificata@gestore.beta.test");
    let other_name = provider("Beta Posta S.r.l.", ADDRESS);
    let below = cas.issuing.below(ALFA, &[]);
    let other_below = below.provider(cas.path(), ALFA, "posta-certificata@gestore.beta.test", &[]);
    // Below the anchor; the anchor itself, as pec_ca_file may name it without its root.
    for anchor in [&cas.root, &cas.issuing] {
        let trusted = cas.trusting(anchor);
        judged(&trusted, &good, NOW).unwrap();
        not_verified(judged(&trusted, &other_address, NOW), "permitted subtree violation");
        not_verified(judged(&trusted, &other_name, NOW), "permitted subtree violation");
    }
    // A link between does not take them away.
    let mut chain = fs::read(&other_below.certificate_file).unwrap();
    chain.extend(cas.issuing.certificate.to_pem().unwrap());
    fs::write(&other_below.certificate_file, chain).unwrap();
    for anchor in [&cas.root, &cas.issuing] {
        not_verified(judged(&cas.trusting(anchor), &other_below, NOW), "permitted subtree violation");
    }
}

#[test]
fn rfc6109_2_2_2_names_that_a_ca_is_kept_from_are_not_believed() {
    let subtree = |base| GeneralSubtree { base, minimum: 0, maximum: None };
    let excluded = vec![
        subtree(GeneralName::Rfc822Name(Ia5String::new("gestore.beta.test").unwrap())),
        subtree(GeneralName::DirectoryName("O=Gamma S.p.A.,C=IT".parse().unwrap())),
    ];
    let constraints = NameConstraints { permitted_subtrees: None, excluded_subtrees: Some(excluded) };
    let cas = Cas::constrained(&[extension("2.5.29.30", true, &constraints.to_der().unwrap())]);
    let trusted = cas.trusting(&cas.root);
    let provider = |name, address| cas.issuing.provider(cas.path(), name, address, &[]);
    judged(&trusted, &provider(ALFA, ADDRESS), NOW).unwrap();
    not_verified(
        judged(&trusted, &provider(ALFA, "posta-certificata@gestore.beta.test"), NOW),
        "excluded subtree violation",
    );
    not_verified(judged(&trusted, &provider("Gamma S.p.A.", ADDRESS), NOW), "excluded subtree violation");
}

#[test]
fn rfc6109_2_2_2_a_certificate_counts_between_its_two_dates_and_below_our_cas_alone() {
    let cas = Cas::new();
    let keys = cas.issuing.provider(cas.path(), ALFA, ADDRESS, &[]);
    let certificate = keys.certificate();
    let trusted = cas.trusting(&cas.root);
    let year = 365 * DAY;
    for (now, says) in [(NOW - year - 1, "not yet valid"), (NOW + year + 1, "expired")] {
        not_verified(judged(&trusted, &keys, now), says);
    }
    // The one found at a good moment is not believed at a bad one.
    for now in [NOW - year, NOW, NOW + year] {
        judged(&trusted, &keys, now).unwrap();
    }
    for (now, says) in [(NOW - year - 1, "not yet valid"), (NOW + year + 1, "expired")] {
        not_verified(judged(&trusted, &keys, now), says);
    }
    let stranger = Ca::root("Prova Root CA");
    not_verified(judged(&cas.trusting(&stranger), &keys, NOW), "unable to get");
    assert_eq!(
        judged(&trusted, &keys, NOW).unwrap().sha256,
        pec_core::identifier::hex(&sha256(&certificate.to_der().unwrap()))
    );
}

#[test]
fn rfc6109_2_2_2_revoked_is_not_believed_and_without_a_list_nobody_can_say() {
    let cas = Cas::new();
    let (alfa, beta) = (cas.alfa(), cas.alfa());
    let crls = cas.crls();
    let trusted = cas.trusting(&cas.root).asking(crls.clone(), TooOld::Wait);
    not_known(judged(&trusted, &alfa, NOW), &format!("the CRL {URL} is not here"));
    let Err(VerifyError::NotKnown(wanted)) = judged(&trusted, &alfa, NOW) else { panic!("not known") };
    assert_eq!(wanted.wanted, [[cas.place()]]);
    // What is damaged is so whatever a list may say.
    let damaged = trusted.verify(b"y", &signature(&alfa, ADDRESS), at(NOW));
    assert!(matches!(damaged, Err(VerifyError::NotVerified(_))), "{damaged:?}");

    crls.take(&cas.place(), &cas.issuing.crl(&Revoked::NOBODY), at(NOW)).unwrap();
    judged(&trusted, &alfa, NOW).unwrap();
    let certificate = alfa.certificate();
    let list = Revoked {
        certificates: &[(&certificate, NOW + 10)],
        number: 2,
        this_update: NOW + 20,
        ..Revoked::NOBODY
    };
    crls.take(&cas.place(), &cas.issuing.crl(&list), at(NOW + 20)).unwrap();
    not_verified(judged(&trusted, &alfa, NOW + 20), "was revoked on");
    judged(&trusted, &beta, NOW + 20).unwrap();
    // On a list is revoked, whatever our clock says: it may be slow.
    not_verified(judged(&trusted, &alfa, NOW + 9), "was revoked on");
    // What came before is as good as it was: `pecctl verify` asks for the time in the message.
    let looking_back = cas.trusting(&cas.root).asking(crls.clone(), TooOld::Wait).looking_back();
    judged(&looking_back, &alfa, NOW + 9).unwrap();
    not_verified(judged(&looking_back, &alfa, NOW + 10), URL);
    // In a list that is there it counts, though its date be in the future.
    let list = Revoked {
        certificates: &[(&certificate, NOW + DAY)],
        number: 3,
        this_update: NOW + 30,
        ..Revoked::NOBODY
    };
    crls.take(&cas.place(), &cas.issuing.crl(&list), at(NOW + 30)).unwrap();
    not_verified(judged(&trusted, &alfa, NOW + 30), "was revoked on");
}

#[test]
fn rfc6109_2_2_2_a_list_that_is_too_old_is_waited_for_or_believed_as_set() {
    let cas = Cas::new();
    let (alfa, beta) = (cas.alfa(), cas.alfa());
    let crls = cas.crls();
    let certificate = beta.certificate();
    let list = Revoked { certificates: &[(&certificate, NOW)], ..Revoked::NOBODY };
    crls.take(&cas.place(), &cas.issuing.crl(&list), at(NOW)).unwrap();
    let waiting = cas.trusting(&cas.root).asking(crls.clone(), TooOld::Wait);
    let believing = cas.trusting(&cas.root).asking(crls.clone(), TooOld::Believe);
    judged(&waiting, &alfa, NOW + DAY).unwrap();
    not_known(
        judged(&waiting, &alfa, NOW + DAY + 1),
        &format!("the CRL {URL} has been too old since 2026-11-1"),
    );
    judged(&believing, &alfa, NOW + DAY + 1).unwrap();
    for trusted in [&waiting, &believing] {
        not_verified(judged(trusted, &beta, NOW + DAY + 1), "was revoked on");
    }
    // Without any list both wait.
    let nothing = Arc::new(CrlDirectory::new(&cas.path().join("nothing")));
    not_known(judged(&cas.trusting(&cas.root).asking(nothing, TooOld::Believe), &alfa, NOW), "is not here");
}

#[test]
fn rfc6109_5_5_2_what_x509_allows_and_the_profile_does_not_is_believed_and_logged_once() {
    let cas = Cas::new();
    let trusted = cas.trusting(&cas.root).asking(cas.crls(), TooOld::Wait);
    let signed_by = trusted
        .verify(b"x", &signature(&cas.issuing.provider(cas.path(), ALFA, ADDRESS, &[]), ADDRESS), at(NOW))
        .unwrap();
    let logged = |name: &str| {
        maillog::captured(false, || (0..3).for_each(|_| trusted.name_breaches(&signed_by, name)))
    };
    assert_eq!(logged(ALFA), "");
    let once = logged("Beta Posta S.r.l.");
    assert!(
        once.starts_with("NOQUEUE: warning: certificate: that of Beta Posta S.r.l. (SHA-1 ")
            && once.contains(&signed_by.sha1),
        "{once}"
    );
    assert!(
        once.ends_with(
            "neither CN nor O of its subject is the provider's name (Beta Posta S.r.l.), but \
            Posta Certificata, Alfa PEC S.p.A.\n"
        ),
        "{once}"
    );
}

#[test]
fn what_a_certificate_says_of_itself_stays_on_one_line() {
    // It comes into the text of a busta di anomalia, which we sign.
    assert_eq!(
        common_name(&Ca::root("Alfa\n\nMessaggio consegnato").certificate),
        "Alfa  Messaggio consegnato"
    );
    assert_eq!(common_name(&Ca::root(&"x".repeat(64)).certificate).len(), 64);
}

#[test]
fn every_ca_below_the_anchor_is_asked_about() {
    const ROOT_URL: &str = "http://ca.test/root.crl";
    let cas = Cas::constrained(&[crl_at(&[ROOT_URL])]);
    let alfa = cas.alfa();
    let crls = cas.crls();
    let trusted = cas.trusting(&cas.root).asking(crls.clone(), TooOld::Wait);
    not_known(
        judged(&trusted, &alfa, NOW),
        &format!("the CRL {URL} is not here, the CRL {ROOT_URL} is not here"),
    );
    crls.take(&cas.place(), &cas.issuing.crl(&Revoked::NOBODY), at(NOW)).unwrap();
    not_known(judged(&trusted, &alfa, NOW), &format!("the CRL {ROOT_URL} is not here"));
    let place = Places::of(&cas.issuing.certificate, &cas.root.certificate).http.remove(0);
    crls.take(&place, &cas.root.crl(&Revoked::NOBODY), at(NOW)).unwrap();
    judged(&trusted, &alfa, NOW).unwrap();
    let list = Revoked { certificates: &[(&cas.issuing.certificate, NOW)], number: 2, ..Revoked::NOBODY };
    crls.take(&place, &cas.root.crl(&list), at(NOW)).unwrap();
    not_verified(judged(&trusted, &alfa, NOW), "the certificate of Prova CA 1 was revoked");
    // Whoever names a CA in pec_ca_file has answered for it.
    judged(&cas.trusting(&cas.issuing).asking(crls, TooOld::Wait), &alfa, NOW).unwrap();
}

#[test]
fn a_certificate_that_names_no_place_that_can_be_asked_is_believed() {
    let cas = Cas::new();
    let trusted = cas.trusting(&cas.root).asking(cas.crls(), TooOld::Wait);
    for extensions in [
        vec![],
        vec![crl_at(&["ldap://ca.test/cn=ca?certificateRevocationList"])],
        vec![crl_at(&["https://ca.test/x"])],
    ] {
        let keys = cas.issuing.provider(cas.path(), ALFA, ADDRESS, &extensions);
        let log =
            maillog::captured(false, || (0..3).for_each(|_| drop(judged(&trusted, &keys, NOW).unwrap())));
        let says = format!(
            "NOQUEUE: warning: CRL: whether the certificate of Posta Certificata (SHA-1 {}) is revoked can \
            never be known: ",
            keys.sha1
        );
        assert_eq!(log.lines().filter(|line| line.starts_with(&says)).count(), 1, "{log}");
    }
    // Beside one that can, it is skipped; of several that can, one is enough.
    let urls = ["ldap://ca.test/cn=ca", "http://a.test/crl", "HTTP://b.test/crl"];
    let certificate = cas.issuing.provider(cas.path(), ALFA, ADDRESS, &[crl_at(&urls)]).certificate();
    let places = Places::of(&certificate, &cas.issuing.certificate);
    assert_eq!(places.http.iter().map(|p| p.url.as_str()).collect::<Vec<_>>(), urls[1..]);
    assert_eq!(places.skipped, urls[..1]);
}

/// As the Italian CA has it.
#[test]
fn an_ldap_address_beside_one_with_http_is_skipped_with_a_word() {
    let cas = Cas::new();
    let ldap = "ldap://ca.test/cn=ca?certificateRevocationList";
    let keys = cas.issuing.provider(cas.path(), ALFA, ADDRESS, &[crl_at(&[ldap, URL])]);
    let crls = cas.crls();
    let place = Places::of(&keys.certificate(), &cas.issuing.certificate).http.remove(0);
    let trusted = cas.trusting(&cas.root).asking(crls.clone(), TooOld::Wait);
    let log = maillog::captured(false, || {
        not_known(judged(&trusted, &keys, NOW), &format!("the CRL {URL} is not here"));
        crls.take(&place, &cas.issuing.crl(&Revoked::NOBODY), at(NOW)).unwrap();
        judged(&trusted, &keys, NOW).unwrap();
    });
    let skipped: Vec<&str> = log.lines().filter(|line| line.contains("skipped")).collect();
    assert_eq!(skipped, [format!("NOQUEUE: CRL: skipped, since only http: is asked: url={ldap}")]);
}

fn refusal(taken: Result<ListTaken, CrlError>) -> String {
    match taken {
        Err(CrlError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_counts_only_if_the_ca_signed_it_whole_for_this_place() {
    let cas = Cas::new();
    let (crls, place) = (cas.crls(), cas.place());
    let good = cas.issuing.crl(&Revoked::NOBODY);
    let namesake = cas.root.below("Prova CA 1", &[]);
    let mut flipped = good.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let scope = |scope: &IssuingDistributionPoint| extension("2.5.29.28", true, &scope.to_der().unwrap());
    let all = IssuingDistributionPoint {
        distribution_point: None,
        only_contains_user_certs: false,
        only_contains_ca_certs: false,
        only_some_reasons: None,
        indirect_crl: false,
        only_contains_attribute_certs: false,
    };
    let at_place = |url: &str| {
        let name = GeneralName::UniformResourceIdentifier(Ia5String::new(url).unwrap());
        IssuingDistributionPoint {
            distribution_point: Some(DistributionPointName::FullName(vec![name])),
            ..all.clone()
        }
    };
    let with = |extensions: &[X509Extension]| cas.issuing.crl(&Revoked { extensions, ..Revoked::NOBODY });
    for (bytes, says) in [
        (b"<html>404</html>".to_vec(), "it is no CRL"),
        (good[..good.len() - 1].to_vec(), "it is no CRL"),
        (namesake.crl(&Revoked::NOBODY), "Prova CA 1 has not signed it"),
        (flipped, "has not signed it"),
        (cas.root.crl(&Revoked::NOBODY), "of somebody else than Prova CA 1"),
        (with(&[extension("2.5.29.27", true, &[2, 1, 1])]), "a delta CRL"),
        (with(&[scope(&IssuingDistributionPoint { indirect_crl: true, ..all.clone() })]), "an indirect CRL"),
        (
            with(&[scope(&at_place("http://ca.test/other.crl"))]),
            "belongs to another place (http://ca.test/other.crl)",
        ),
        (
            with(&[extension("1.3.6.1.4.1.99999.1", true, &[5, 0])]),
            "a critical extension that is not known (1.3.6.1.4.1.99999.1)",
        ),
        (cas.issuing.crl(&Revoked { this_update: NOW + 3601, ..Revoked::NOBODY }), "which has not come yet"),
    ] {
        let why = refusal(crls.take(&place, &bytes, at(NOW)));
        assert!(why.contains(says), "{why}");
        assert!(crls.lists().unwrap().get(&place).is_none());
    }
    crls.take(
        &place,
        &with(&[scope(&at_place(URL)), extension("1.3.6.1.4.1.99999.1", false, &[5, 0])]),
        at(NOW),
    )
    .unwrap();

    // One about CAs alone says nothing of a provider.
    let cas_alone = scope(&IssuingDistributionPoint { only_contains_ca_certs: true, ..all });
    let list = Revoked { number: 2, extensions: &[cas_alone], ..Revoked::NOBODY };
    crls.take(&place, &cas.issuing.crl(&list), at(NOW)).unwrap();
    not_known(judged(&cas.trusting(&cas.root).asking(crls, TooOld::Wait), &cas.alfa(), NOW), "is not here");
}

#[test]
fn a_ca_that_may_not_sign_lists_has_none() {
    let cas = Cas::new();
    let provider = cas.issuing.provider(cas.path(), ALFA, ADDRESS, &[]);
    let key = openssl::pkey::PKey::private_key_from_pem(&fs::read(&provider.key_file).unwrap()).unwrap();
    let no_ca = Ca { certificate: provider.certificate(), key };
    let place = Place { url: URL.into(), also: Vec::new(), issuer: no_ca.certificate.clone() };
    assert!(
        refusal(cas.crls().take(&place, &no_ca.crl(&Revoked::NOBODY), at(NOW))).contains("may not sign CRLs")
    );
}

#[test]
fn an_older_list_never_takes_the_place_of_a_newer_one() {
    let cas = Cas::new();
    let (crls, place) = (cas.crls(), cas.place());
    let alfa = cas.alfa();
    let certificate = alfa.certificate();
    let list = |number, this_update, certificates| {
        cas.issuing.crl(&Revoked { number, this_update, certificates, ..Revoked::NOBODY })
    };
    let revoked: &[(&X509, i64)] = &[(&certificate, NOW)];
    let newest = list(7, NOW, revoked);
    assert!(matches!(crls.take(&place, &newest, at(NOW)), Ok(ListTaken::New(_))));
    assert!(matches!(crls.take(&place, &newest, at(NOW)), Ok(ListTaken::Same(_))));
    assert!(
        refusal(crls.take(&place, &list(6, NOW, &[]), at(NOW)))
            .contains("its number is 6, and the one in force has 7")
    );
    assert!(refusal(crls.take(&place, &list(8, NOW - 1, &[]), at(NOW))).contains("the one in force is of"));
    let trusted = cas.trusting(&cas.root).asking(crls.clone(), TooOld::Wait);
    not_verified(judged(&trusted, &alfa, NOW), "was revoked on");
    // A hold is lifted: the next list says so.
    crls.take(&place, &list(8, NOW, &[]), at(NOW)).unwrap();
    judged(&trusted, &alfa, NOW).unwrap();
}

#[test]
fn lists_outlive_the_programs_and_are_one_for_all_of_them() {
    let cas = Cas::new();
    let alfa = cas.alfa();
    let (one, other) = (cas.crls(), cas.crls());
    let trusted = cas.trusting(&cas.root).asking(one.clone(), TooOld::Wait);
    not_known(judged(&trusted, &alfa, NOW), "is not here");
    one.note(&cas.place()).unwrap();
    assert_eq!(
        other
            .lists()
            .unwrap()
            .all()
            .iter()
            .map(|k| (k.place.url.as_str(), k.crl.is_some()))
            .collect::<Vec<_>>(),
        [(URL, false)]
    );
    // Another program fetches.
    other.take(&cas.place(), &cas.issuing.crl(&Revoked::NOBODY), at(NOW)).unwrap();
    judged(&trusted, &alfa, NOW).unwrap();
    // A new start.
    let again = cas.trusting(&cas.root).asking(cas.crls(), TooOld::Wait);
    judged(&again, &alfa, NOW).unwrap();
    // And people can read it.
    let file = fs::read_dir(cas.path().join("crl")).unwrap().map(|e| e.unwrap().path()).next().unwrap();
    let shown = std::process::Command::new("openssl")
        .args(["crl", "-noout", "-issuer", "-in"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("Prova CA 1"), "{shown:?}");
    // What was changed by hand is no list.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("url: http://ca.test/issuing.crl", "url: http://ca.test/other.crl"))
        .unwrap();
    not_known(judged(&cas.trusting(&cas.root).asking(cas.crls(), TooOld::Wait), &alfa, NOW), "is not here");
}

#[test]
fn chain_and_lists_are_looked_at_once_for_each_signer_and_list_not_for_each_message() {
    let cas = Cas::new();
    let (alfa, beta) = (cas.alfa(), cas.alfa());
    let (crls, place) = (cas.crls(), cas.place());
    crls.take(&place, &cas.issuing.crl(&Revoked::NOBODY), at(NOW)).unwrap();
    let trusted = cas.trusting(&cas.root).asking(crls.clone(), TooOld::Wait);
    let of_alfa = signature(&alfa, ADDRESS);
    for now in 0..50 {
        trusted.verify(b"x", &of_alfa, at(NOW + now)).unwrap();
    }
    assert_eq!(trusted.looks(), 2, "the chain, and what the list says of it");
    for _ in 0..50 {
        judged(&trusted, &beta, NOW).unwrap();
    }
    assert_eq!(trusted.looks(), 4, "another signer");
    let certificate = alfa.certificate();
    let list = Revoked { certificates: &[(&certificate, NOW)], number: 2, ..Revoked::NOBODY };
    crls.take(&place, &cas.issuing.crl(&list), at(NOW)).unwrap();
    for _ in 0..50 {
        not_verified(trusted.verify(b"x", &of_alfa, at(NOW)), "was revoked on");
        judged(&trusted, &beta, NOW).unwrap();
    }
    assert_eq!(trusted.looks(), 6, "another list, for both");
    // The signature itself is checked each time.
    assert!(matches!(
        trusted.verify(b"y", &signature(&beta, ADDRESS), at(NOW)),
        Err(VerifyError::NotVerified(_))
    ));
    assert_eq!(trusted.looks(), 6);
    // So are dates, and what came along.
    not_verified(judged(&trusted, &beta, NOW + 400 * DAY), "expired");
    let alone = cas.directory.path().join("alone.pem");
    fs::write(&alone, beta.certificate().to_pem().unwrap()).unwrap();
    not_verified(judged(&trusted, &Keys { certificate_file: alone, ..beta }, NOW), "unable to get");
}
