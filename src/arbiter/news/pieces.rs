//! News in small packets, each with how far who has it has been told.

use std::collections::BTreeMap;

use crate::ipc::bulletin::{Bulletin, Told};
use crate::ipc::channel::{Channel, Packet};

/// Bytes of the kernel's memory that may wait in a channel that still gets news: a part of what one can hold, which
/// is net.core.wmem_default, about 200 KiB.
pub(super) const ROOM: usize = 32 * 1024;
/// Bytes of one piece of news: few, so that what waits is not much more than [`ROOM`].
pub(super) const PIECE: usize = 3 * 1024;

/// How far a worker has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) event: u64,
    pub(super) version: u64,
}

/// What goes in one packet.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) packet: Packet,
    /// How far who has it has been told.
    pub(super) until: Mark,
}

/// Everything that somebody does not know, by how far it has been told.
pub(super) type Backlogs = BTreeMap<Mark, Vec<Piece>>;

/// Whether a channel gets news: its worker listens.
pub(in crate::arbiter) fn has_room(channel: &Channel) -> bool {
    channel.unsent().is_ok_and(|waits| waits <= ROOM)
}

/// Sends what there is room for. True: there was room for some, and there is more.
pub(super) fn tell(channel: &Channel, pieces: &[Piece], told: &mut Mark, newest: Mark) -> bool {
    let before = *told;
    for piece in pieces {
        if !has_room(channel) || channel.send_packet(&piece.packet).is_err() {
            return *told != before;
        }
        *told = piece.until;
    }
    *told = newest;
    false
}

/// As few packets as small ones can be. Each entry with how far who has it has been told.
pub(super) fn pieces(entries: Vec<(Mark, Bulletin)>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut open, mut length, mut mark) = (Bulletin::default(), 0, Mark::default());
    let close = |bulletin: Bulletin, until: Mark| {
        // One entry that no packet can hold is left out: nothing that is sent here grows like that.
        let packet = Packet::of(&Told::Bulletin(Box::new(bulletin))).inspect_err(|error| {
            tracing::error!(error = %error, "news for the workers are too large for one message, and are left out");
        });
        let packet = packet.ok()?;
        Some(Piece { packet, until })
    };
    for (until, entry) in entries {
        let size = serde_json::to_vec(&entry).map_or(0, |text| text.len());
        if length > 0 && length + size > PIECE {
            pieces.extend(close(std::mem::take(&mut open), mark));
            length = 0;
        }
        open.append(entry);
        (length, mark) = (length + size, until);
    }
    if length > 0 {
        pieces.extend(close(open, mark));
    }
    pieces
}
