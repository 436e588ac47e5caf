//! Takes the last randomness away: what the operating system gives this process is always the same.
//!
//! Everything under test draws from sources that are passed in, but the async runtime draws for itself: whose turn it is
//! among those who wait for one change, and where the keys of the standard hash maps come from. Its seeds come from the
//! operating system and from a count of the process, so a run repeats itself byte for byte as the first one of its
//! process, on a thread of its own.

/// In place of the C library's, which the standard library looks up so that it can be replaced.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the C library's function has a pointer")]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller owns so many bytes there, to be written.
    unsafe { buffer.write_bytes(0x5a, length) };
    length.cast_signed()
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    #[test]
    fn every_thread_hashes_alike() {
        let hash = || std::collections::hash_map::RandomState::new().hash_one(7);
        let on_a_thread = || std::thread::scope(|scope| scope.spawn(hash).join()).ok();
        assert_eq!(on_a_thread(), on_a_thread());
    }
}
