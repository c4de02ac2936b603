//! The one hint to the processor that this crate gives.

/// Says that `bytes` will soon be written, up to two cache lines of them.
///
/// A batch's buffer was read last by the core that sent it, so its lines have to be fetched from there, and the lock that ends an append
/// waits until all that was written before is in them. Asked for one record ahead, they are there in time. Nothing depends on it.
#[inline(always)]
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "a hint to the cache, which no safe function gives"))]
pub(crate) fn for_writing(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(lines) = bytes.first_chunk::<128>() {
        // SAFETY: `prefetchw` reads and writes no memory that a program can see, has no effect on registers or flags, faults never, and
        // does nothing on a processor that does not know it.
        unsafe {
            core::arch::asm!("prefetchw [{0}]", "prefetchw [{0} + 64]", in(reg) lines, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
