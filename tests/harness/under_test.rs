//! The `skein` command for the tests: the same library, always built by `cargo test`. And what no release has: two signals by which a
//! test holds a data worker up and lets it go.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::{
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

/// Whether workers that were told to hang do so.
static HANGS: AtomicBool = AtomicBool::new(false);

/// SIGUSR1: nobody hangs any more.
extern "C" fn go_on(_: libc::c_int) {
    HANGS.store(false, Relaxed);
}

/// SIGUSR2: the data worker that gets it does nothing more until the process gets the other signal. Other threads take no notice.
extern "C" fn hang(_: libc::c_int) {
    let mut name = [0_u8; 16];
    #[expect(unsafe_code, reason = "there is no other way to ask the kernel for a thread's name")]
    // SAFETY: the kernel writes at most 16 bytes, which are there.
    unsafe {
        libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
    }
    if !name.starts_with(b"worker-") {
        return;
    }
    HANGS.store(true, Relaxed);
    while HANGS.load(Relaxed) {
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        #[expect(unsafe_code, reason = "of the ways to wait, few are allowed in a signal's handler")]
        // SAFETY: nanosleep is one of them, and takes a null pointer.
        unsafe {
            libc::nanosleep(&raw const pause, std::ptr::null_mut());
        }
    }
}

fn main() -> std::process::ExitCode {
    for (signal, handler) in
        [(Signal::SIGUSR1, SigHandler::Handler(go_on)), (Signal::SIGUSR2, SigHandler::Handler(hang))]
    {
        let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
        #[expect(unsafe_code, reason = "handlers of signals are unsafe by their interface")]
        // SAFETY: the handlers touch an atomic and ask the kernel, nothing else.
        let installed = unsafe { sigaction(signal, &action) };
        installed.expect("these signals may be handled");
    }
    node::cli::main()
}
