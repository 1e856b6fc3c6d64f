//! Memory that outlives an exec and is shared by the arbiter with every worker.

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Types that may live in memory which other processes write at the same time.
///
/// # Safety
/// Every bit pattern, all zeros included, is a valid value; every field is an atomic (or an array or
/// struct of such), so that a shared reference never races; there are no pointers and no destructor.
pub(crate) unsafe trait Shareable: Sync + Sized {}

/// One `T` in a memfd mapping, all zeros at first.
pub(crate) struct Shared<T> {
    map: MmapRaw,
    fd: OwnedFd,
    of: PhantomData<T>,
}

impl<T: Shareable> Shared<T> {
    /// Makes a new mapping, its fd close-on-exec.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) and mmap(2) say.
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&fd, i64::try_from(size_of::<T>()).unwrap_or(i64::MAX))?;
        let map = MmapOptions::new().len(size_of::<T>()).map_raw(&fd)?;
        // Pages are at least as aligned as any type that lives here; checked all the same.
        assert_eq!(map.as_ptr().align_offset(align_of::<T>()), 0);
        Ok(Self {
            map,
            fd,
            of: PhantomData,
        })
    }
}

impl<T: Shareable> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping is at least size_of::<T>() bytes, aligned (checked in `new`), lives as long
        // as `self`, is never truncated (the fd is private to this type), and `T: Shareable` makes every
        // bit pattern valid and every access atomic.
        unsafe { &*self.map.as_ptr().cast::<T>() }
    }
}

impl<T> AsFd for Shared<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
