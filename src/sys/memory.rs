//! Memory that outlives an exec and is shared by the arbiter with every worker.

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Types that may live in memory which other processes write at the same time. Implemented for atomics and
/// arrays of them, and for structs by [`shareable!`](crate::sys::memory::shareable), which checks every field.
///
/// # Safety
/// Every bit pattern, all zeros included, is a valid value; every field is an atomic (or an array or
/// struct of such), so that a shared reference never races; there are no pointers and no destructor.
pub(crate) unsafe trait Shareable: Sync + Sized {}

// SAFETY: an atomic integer has no invalid bit pattern, no pointer and no destructor.
unsafe impl Shareable for AtomicU8 {}
// SAFETY: as above.
unsafe impl Shareable for AtomicU32 {}
// SAFETY: as above.
unsafe impl Shareable for AtomicU64 {}
// SAFETY: an array is its elements, one after the other.
unsafe impl<T: Shareable, const N: usize> Shareable for [T; N] {}

/// Declares a struct that may live in shared memory: `repr(C)`, every field [`Shareable`], or it does not compile.
macro_rules! shareable {
    (
        $(#[$attribute:meta])*
        $visible:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_visible:vis $field:ident: $type:ty,)*
        }
    ) => {
        #[repr(C)]
        $(#[$attribute])*
        $visible struct $name {
            $($(#[$field_attribute])* $field_visible $field: $type,)*
        }

        const _: () = {
            const fn is_shareable<T: $crate::sys::memory::Shareable>() {}
            $(is_shareable::<$type>();)*
        };

        // SAFETY: every field is shareable (checked above), and padding is never read.
        #[allow(unsafe_code, reason = "the proof is this macro's, in src/sys")]
        unsafe impl $crate::sys::memory::Shareable for $name {}
    };
}
pub(crate) use shareable;

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

    /// Maps what another image of this program has made. The type must be the same: its size is checked, its layout
    /// is the caller's to know.
    ///
    /// # Errors
    /// Another size, or what mmap(2) says.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let size = nix::sys::stat::fstat(&fd)?.st_size;
        if usize::try_from(size).ok() != Some(size_of::<T>()) {
            return Err(io::Error::other(format!(
                "the shared memory has {size} bytes and not {}",
                size_of::<T>()
            )));
        }
        let map = MmapOptions::new().len(size_of::<T>()).map_raw(&fd)?;
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
