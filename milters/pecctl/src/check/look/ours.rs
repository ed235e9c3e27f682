//! Our own parameters, as far as something is compared with them.

use std::collections::HashSet;
use std::time::Duration;

use pec_host::parameters::{Settings, Socket};

/// Of our parameters, those that are compared.
#[derive(Debug, Clone)]
pub(crate) struct Ours {
    pub(crate) service_domain: String,
    pub(crate) local_domains: HashSet<String>,
    pub(crate) provider_name: String,
    /// Names under which the DNS may send mail here.
    pub(crate) mx_hosts: HashSet<String>,
    pub(crate) mailbox_lmtp: Socket,
    pub(crate) mailbox_lmtp_no_quota: Socket,
    pub(crate) clamd: Option<Socket>,
    pub(crate) clamd_max_age: Duration,
}

impl Ours {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            service_domain: settings.service_domain.clone(),
            local_domains: settings.local_domains.clone(),
            provider_name: settings.provider_name.clone(),
            mx_hosts: settings
                .mx_hosts
                .iter()
                .cloned()
                .chain([settings.hostname.to_ascii_lowercase()])
                .collect(),
            mailbox_lmtp: settings.mailbox_lmtp.clone(),
            mailbox_lmtp_no_quota: settings.mailbox_lmtp_no_quota.clone(),
            clamd: settings.clamd.clone(),
            clamd_max_age: settings.clamd_max_age,
        }
    }
}
