//! What holders have left: the arbiter has the files, the core decides what becomes of them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::core::Core;
use super::state::Number;
use crate::ipc::channel::Channel;
use crate::ipc::orders::Order;
use crate::kept::Kept;
use crate::lease::Deposit;

/// By the numbers that the core knows them by.
#[derive(Debug, Default)]
pub(super) struct Deposits {
    all: BTreeMap<u64, Kept>,
    last: u64,
}

/// What the next image gets.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct DepositsState {
    last: u64,
    all: Vec<(u64, Number)>,
}

impl Deposits {
    /// What the service's last life has left to this one, the newest first.
    pub(super) fn inherit(files: Vec<OwnedFd>, core: &mut Core) -> Self {
        let mut deposits = Self::default();
        for file in files {
            let kept = Kept::adopt(file).and_then(|kept| {
                let slot = kept.slot().map(u16::try_from).transpose();
                Ok((slot.map_err(io::Error::other)?, kept))
            });
            match kept {
                Ok((slot, kept)) => {
                    let payload = kept.payload().to_owned();
                    let deposit = deposits.add(kept);
                    if !core.inherit(&payload, slot, deposit) {
                        deposits.discard(deposit.number);
                    }
                }
                Err(error) => tracing::warn!(
                    error = %error,
                    "what a payload has kept in the file descriptor store cannot be read"
                ),
            }
        }
        deposits
    }

    /// A file that did not come along is missing, and nothing else is.
    pub(super) fn assemble(
        state: DepositsState,
        mut take: impl FnMut(Number) -> Option<OwnedFd>,
    ) -> Self {
        let mut deposits = Self {
            all: BTreeMap::new(),
            last: state.last,
        };
        for (number, fd) in state.all {
            let kept = take(fd).ok_or_else(|| io::ErrorKind::NotFound.into());
            match kept.and_then(Kept::adopt) {
                Ok(kept) => drop(deposits.all.insert(number, kept)),
                Err(error) => {
                    tracing::error!(number, error = %error, "what a payload has kept is lost");
                }
            }
        }
        deposits
    }

    /// What a worker has sent for this payload and slot.
    ///
    /// # Errors
    /// It is not what it should be. What was kept before stays.
    pub(super) fn take(
        &mut self,
        lease: Option<(&str, Option<u32>)>,
        file: Option<OwnedFd>,
    ) -> io::Result<Deposit> {
        let kept = Kept::adopt(file.ok_or_else(|| io::Error::other("no descriptor is left"))?)?;
        if lease != Some((kept.payload(), kept.slot())) {
            return Err(io::Error::other("it says that it is another payload's"));
        }
        Ok(self.add(kept))
    }

    pub(super) fn add(&mut self, kept: Kept) -> Deposit {
        self.last += 1;
        let deposit = Deposit {
            number: self.last,
            length: kept.length() as u64,
        };
        self.all.insert(deposit.number, kept);
        deposit
    }

    pub(super) fn discard(&mut self, number: u64) {
        self.all.remove(&number);
    }

    pub(super) fn state(&self) -> DepositsState {
        let all = self.all.iter();
        DepositsState {
            last: self.last,
            all: all
                .map(|(number, kept)| (*number, kept.as_fd().as_raw_fd()))
                .collect(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.all.values()
    }

    /// Sends an order, with the file that it names.
    ///
    /// # Errors
    /// As for [`Channel::send_with`].
    pub(super) fn send(&self, channel: &Channel, order: Order) -> io::Result<()> {
        match order {
            Order::Grant {
                payload,
                grant,
                kept: Some(Deposit { number, .. }),
            } => match self.all.get(&number) {
                Some(kept) => channel.send_with(&order, kept.as_fd()),
                // It was said where it got lost.
                None => channel.send(&Order::Grant {
                    payload,
                    grant,
                    kept: None,
                }),
            },
            order => channel.send(&order),
        }
    }
}
