//! The API for applications: its settings and ports in this process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use rollbook_api::{Api, JwksUrl, KeySource, Ports, Refresh, RefreshError, SessionSettings, Settings};
use rollbook_core::catalog::Resource;
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_reconciler::{Reconciler, ResyncOutcome};
use rollbook_session::{Keys, Policy};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::live_secrets::LiveSecrets;
use crate::wire::{self, ClerkApi};

/// Part of the drain timeout that the API has at most: one of this many.
const DRAIN_SHARE: u32 = 20;

/// Creates the API of this process; `None` without `api_tokens`.
///
/// # Errors
/// A metric is registered already, or the settings of session tokens can't be used.
pub(crate) fn api(
    config: &Config,
    secrets: &LiveSecrets,
    store: Arc<dyn FullStore>,
    clock: Arc<dyn Clock>,
    source: Option<Arc<ClerkApi>>,
    registry: &Registry,
) -> anyhow::Result<Option<Api>> {
    let Some(tokens) = secrets.api_tokens() else { return Ok(None) };
    // Streams end at once. This time is for clients that read slowly; the receiver and the worker need the rest.
    let defaults = Settings::default();
    let drain_timeout = defaults.drain_timeout.min(config.settings.drain_timeout / DRAIN_SHARE);
    let settings = Settings { drain_timeout, ..defaults };
    let refresh = source.map(|source| -> Arc<dyn Refresh> {
        let reconciler = wire::reconciler(config, source, store.clone(), clock.clone());
        // A caller waits: what can't be answered now is an error at once.
        Arc::new(FromClerk { reconciler: reconciler.with_patience(Duration::ZERO) })
    });
    let ports = Ports { changes: store.clone(), rows: store.clone(), access: store, clock, refresh };
    Ok(Some(Api::new(settings, tokens, sessions(config, secrets.jwt_keys())?, ports, registry)?))
}

/// Returns which session tokens are accepted, by these keys if any are given; `None` without an issuer.
///
/// # Errors
/// The settings do not fit together.
pub(crate) fn sessions(config: &Config, fixed: Option<Keys>) -> anyhow::Result<Option<SessionSettings>> {
    let settings = &config.settings;
    let Some(issuer) = &settings.clerk_issuer else { return Ok(None) };
    let policy = match &settings.clerk_authorized_parties {
        None => Policy::for_any_party(issuer)?,
        Some(parties) => Policy::new(issuer, parties.clone())?,
    };
    let keys = match (fixed, &settings.clerk_jwks_url) {
        (Some(keys), _) => KeySource::Fixed(keys),
        (None, Some(url)) => KeySource::Jwks(url.clone()),
        (None, None) => KeySource::Jwks(JwksUrl::of_issuer(issuer)?),
    };
    Ok(Some(SessionSettings::new(policy, keys)))
}

/// Reads objects at Clerk by the same way as `rollbook resync`.
struct FromClerk {
    reconciler: Reconciler,
}

#[async_trait]
impl Refresh for FromClerk {
    async fn refresh(&self, _: &'static Resource, id: &str) -> Result<(), RefreshError> {
        // A stop of the process drops the call.
        let stop = CancellationToken::new();
        let read = self.reconciler.refresh(id, &stop).await;
        let read = read.map_err(|error| RefreshError(error.to_string()))?;
        let problem = match read.outcome {
            ResyncOutcome::Inserted
            | ResyncOutcome::Updated
            | ResyncOutcome::Unchanged
            | ResyncOutcome::Deleted
            | ResyncOutcome::Absent
            | ResyncOutcome::Revived
            | ResyncOutcome::RowIsLater
            | ResyncOutcome::Erased => return Ok(()),
            ResyncOutcome::WronglyDeleted => {
                "a row is deleted here and present at Clerk; rollbook resync ID --force revives it"
            }
            ResyncOutcome::Refused => {
                "a row could not be changed: a trigger or a constraint of the team refuses it"
            }
            ResyncOutcome::Unproven => {
                "Clerk's answers do not prove whether the object exists; try again later"
            }
            ResyncOutcome::NotReadable | ResyncOutcome::UnknownKind => {
                "the id is not of a user or an organization"
            }
        };
        Err(RefreshError(problem.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rollbook_session::verify;
    use rollbook_testkit::tokens::{ISSUER, Signer, claims};

    use super::*;
    use crate::config::{Environment, FileSource, Sources};

    #[test]
    fn a_slash_at_the_end_of_the_issuer_refuses_no_token() {
        let (signer, now) = (Signer::of_the_instance(), 1_790_000_000);
        let (issuer, pem) = (format!("{ISSUER}/"), signer.pem());
        let environment = Environment::of(&[("CLERK_ISSUER", &issuer), ("CLERK_JWT_KEY", &pem)]);
        let config = Config::load(&Sources { flags: &[], environment, file: FileSource::None });
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        let sessions = sessions(&config, LiveSecrets::of(&config).jwt_keys()).expect("they fit together");
        let SessionSettings { policy, keys: KeySource::Fixed(keys), .. } = sessions.expect("an issuer")
        else {
            panic!("the keys are fixed")
        };
        let at = UNIX_EPOCH + Duration::from_secs(now);
        let token = signer.token(&claims("user_1", 1_790_000_000));
        assert!(verify(&token, &keys.current(), &policy, at).is_ok());
    }
}
