//! File descriptors: the data path leaves the last tenth of what the process may have to control, so that a node which is full of
//! connections still answers its operator and its peers.
//!
//! Nothing is counted: a new descriptor gets the lowest free number, so its number says how many are open.

use nix::{
    libc,
    sys::resource::{Resource, getrlimit},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// Control's share is one of so many.
const CONTROL_SHARE: u64 = 10;

/// True if this descriptor, which has just been opened for the data path, leaves control its share.
pub fn leaves_room(new: &impl AsFd) -> bool {
    let number = u64::try_from(new.as_fd().as_raw_fd()).unwrap_or_default();
    // RLIM_INFINITY is the largest number.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(true, |(soft, _)| number < of_data(soft))
}

/// True if what the data path opens now would be taken from control's share.
pub fn are_short() -> bool {
    match io::stdin().as_fd().try_clone_to_owned() {
        Ok(probe) => !leaves_room(&probe),
        Err(error) => matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)),
    }
}

const fn of_data(soft: u64) -> u64 {
    soft - soft / CONTROL_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_kept() {
        assert_eq!((of_data(256), of_data(1_024), of_data(u64::MAX)), (231, 922, u64::MAX - u64::MAX / 10));
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(leaves_room(&socket) && !are_short());
    }
}
