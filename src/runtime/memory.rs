//! SHELL. The memory of the process: in small pages, and given back when many clients have gone.

use std::time::Instant;

use nix::sys::prctl::set_thp_disable;

/// Does without huge pages, also where the system gives them to everyone. They count whole when a byte of them
/// is used, which made a node and its clients twice as large, and no delivery cheaper.
///
/// Programs that are started from then on do without them too. To be called first, since pages in use stay
/// what they are.
pub fn use_small_pages() {
    // Kernels that cannot do without have none.
    let _ = set_thp_disable(true);
}

/// Gives the system what this thread has freed: by itself the allocator does so while more is allocated and
/// freed, and a thread whose clients have gone does neither.
///
/// Takes some milliseconds where it is much, six for what 19,000 clients left.
#[expect(unsafe_code, reason = "the allocator's crate has no safe function for it")]
pub fn give_back() {
    let start = Instant::now();
    // SAFETY: It may be called at any time from any thread, and changes nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(true) }
    tracing::debug!(took = ?start.elapsed(), "memory given back");
}
