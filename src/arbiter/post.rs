//! The workers' mailboxes: the arbiter makes them and tells everybody, and reads and writes none.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use socket2::SockRef;

use super::core::WorkerId;
use super::shell::Shell;
use crate::ipc::orders::Order;

/// Bytes of unread packets, as the kernel counts them; it gives no more than net.core.wmem_max allows, socket(7).
const ROOM: usize = 1024 * 1024;

/// A new one: the end to write to, and the end to read.
///
/// # Errors
/// What socketpair(2) says.
pub(super) fn mailbox() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (writer, reader) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    SockRef::from(&writer).set_send_buffer_size(ROOM)?;
    Ok((writer, reader))
}

impl Shell {
    /// Gives the mailbox of a worker to all others that know messages. What is published before they have it does
    /// not reach that worker, and it has not begun by then.
    pub(super) fn introduce(&self, worker: WorkerId, mailbox: &OwnedFd) {
        let others = self
            .children
            .iter()
            .filter(|(_, child)| child.mailbox.is_some());
        for (other, channel) in others.filter_map(|(id, child)| Some((id, child.channel.as_ref()?)))
        {
            let order = Order::Peer { worker: worker.0 };
            if let Err(error) = channel.send_with(&order, mailbox.as_fd()) {
                tracing::warn!(payload_worker = other.0, about = worker.0, error = %error, "a worker could not be told of another one: no message will reach that from it");
            }
        }
    }
}
