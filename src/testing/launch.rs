//! The startup of an app in a test, and what payloads leave to each other there.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::worker::Around;
use super::{NotStarted, TestApp, Trace};
use crate::app::App;
use crate::app::leases::Leases;
use crate::app::shelf::Custodian;
use crate::app::start::Launch;
use crate::kept::Kept;

pub(super) async fn launch(
    app: App,
    stop: impl Future<Output = ()>,
    around: Around,
) -> Result<TestApp, NotStarted> {
    let (desk, outlook) = (around.desk(), around.outlook());
    let Around {
        place,
        workers,
        tokens,
        messages,
        busy,
        deadline,
        events,
        scene,
        ..
    } = around;
    let trace = Trace::default();
    let cancel = CancellationToken::new();
    let archive = Arc::new(Archive::default());
    let leases = Leases::new(place.slot, u32::from(place.workers)).with_custodian(archive.clone());
    let leases = Arc::new(leases);
    let starting = app.start(Launch {
        cancel: cancel.clone(),
        tokens,
        desk,
        messages: messages.clone(),
        outlook,
        deadline,
        cleanup: None,
        observer: Arc::new((trace.clone(), scene)),
        leases: Arc::clone(&leases),
    });
    tokio::pin!(starting);
    let started = tokio::select! {
        biased;
        started = &mut starting => started,
        () = unconstrained(stop) => {
            cancel.cancel();
            starting.await
        }
        () = until(deadline) => {
            cancel.cancel();
            starting.await
        }
    };
    match started {
        Ok(running) => {
            let mut app = TestApp {
                running,
                connections: Connections::default(),
                cut_at: None,
                messages,
                trace,
                leases,
                archive,
                busy,
                events,
                happened: AtomicU64::new(0),
                workers,
                grants: 0,
            };
            for (payload, kept) in &place.kept {
                app.archive.put(app.number_of(payload), kept.clone());
            }
            for (_, payload) in app.leases.payloads() {
                app.grant(&payload, place.workers);
            }
            Ok(app)
        }
        Err(failure) => Err(NotStarted { failure, trace }),
    }
}

/// Whatever the task has done before in the same poll.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => unconstrained(sleep_until(deadline)).await,
        None => pending().await,
    }
}

/// What payloads have kept, as the arbiter has it.
#[derive(Default)]
pub(super) struct Archive(Mutex<BTreeMap<u32, Arc<Kept>>>);

impl Archive {
    pub(super) fn put(&self, payload: u32, kept: Arc<Kept>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(payload, kept);
    }

    pub(super) fn of(&self, payload: u32) -> Option<Arc<Kept>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&payload).cloned()
    }
}

impl Custodian for Archive {
    fn keep(&self, payload: u32, _: u64, kept: &Arc<Kept>) -> io::Result<()> {
        self.put(payload, kept.clone());
        Ok(())
    }
}
