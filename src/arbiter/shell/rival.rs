//! What the arbiter does about processes of an earlier life of the service.

use nix::sys::epoll::Epoll;

use super::super::claim::Claims;
use super::super::core::Event;
use super::super::intake::{Source, watch};
use super::Shell;

impl Shell {
    /// Claims the service for this life. While another one is not over its leases are withheld.
    pub(super) fn begin_claims(&mut self) {
        self.claims.settle();
        if self.claims.is_settled() {
            return;
        }
        self.watch_rivals();
        self.core.withhold_leases();
        if let Some((claim, arbiter_pid)) = self.claims.awaited() {
            tracing::warn!(
                arbiter_pid,
                claim,
                "processes of an earlier life of this service are left: payloads that need a lease wait for their end; `ss -xlp` names them by this claim"
            );
        }
    }

    /// The same where leases are withheld already if they have to be: in a later image, and with other addresses.
    pub(in crate::arbiter) fn resume_claims(&mut self) {
        self.claims.settle();
        self.watch_rivals();
        if self.claims.is_settled() {
            self.events.push_back(Event::Claimed);
        }
    }

    /// Looks whether they are over.
    pub(in crate::arbiter) fn settle_claims(&mut self) {
        if self.claims.is_settled() {
            return;
        }
        unwatch(&self.epoll, &self.claims);
        self.claims.settle();
        self.watch_rivals();
        if self.claims.is_settled() {
            tracing::info!("no process of an earlier life of this service is left");
            self.events.push_back(Event::Claimed);
        }
    }

    /// Those that were for addresses of the image before.
    pub(in crate::arbiter) fn release_claims(&mut self) {
        unwatch(&self.epoll, &self.claims);
        self.claims.keep_only(&self.equipment.listeners);
        self.resume_claims();
    }

    fn watch_rivals(&self) {
        for connection in self.claims.connections() {
            if let Err(error) = watch(&self.epoll, connection, Source::Rival) {
                // It is looked at every now and then anyway.
                tracing::warn!(error = %error, "processes of an earlier life of this service cannot be watched");
            }
        }
    }
}

/// Before it is closed: a process that was forked in between may hold a copy of it for a moment.
fn unwatch(epoll: &Epoll, claims: &Claims) {
    for connection in claims.connections() {
        // It is not there when it could not be watched in the first place.
        let _ = epoll.delete(connection);
    }
}
