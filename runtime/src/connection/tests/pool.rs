//! What is kept of buffers, and what is used again.

use super::super::Pool;

fn address(bytes: &[u8]) -> usize {
    bytes.as_ptr() as usize
}

#[test]
fn a_buffer_is_used_again_where_it_fits_and_is_not_much_too_large() {
    let pool = Pool::new(10_000);
    let mut first = pool.take(1000);
    assert_eq!(first.room(), 1000);
    let place = address(first.fill(1000));
    drop(first);
    assert_eq!(pool.take(2000).room(), 2000, "too small");
    assert_eq!(pool.take(400).room(), 400, "much too large");
    let mut again = pool.take(600);
    assert_eq!((again.room(), address(again.fill(600))), (1000, place));
}

#[test]
fn shared_bytes_bring_their_buffer_back_with_the_last_of_them() {
    let pool = Pool::new(10_000);
    let mut buffer = pool.take(100);
    buffer.fill(5).copy_from_slice(b"hello");
    let place = address(buffer.as_ref());
    let bytes = buffer.freeze();
    let part = bytes.slice(1..3);
    assert_eq!((&bytes[..], &part[..]), (&b"hello"[..], &b"el"[..]));
    drop(bytes);
    assert_ne!(address(pool.take(100).fill(1)), place, "a part is still in use");
    drop(part);
    assert_eq!(address(pool.take(100).fill(1)), place);
}

#[test]
fn no_more_than_the_bound_is_kept_and_the_longest_idle_goes_first() {
    let pool = Pool::new(3000);
    let buffers: Vec<_> = (0..5).map(|_| pool.take(1000)).collect();
    drop(buffers);
    assert_eq!(format!("{pool:?}"), "Pool(3 buffers, 3000 of 3000 bytes)");
    drop(pool.take(2500));
    assert_eq!(format!("{pool:?}"), "Pool(1 buffers, 2500 of 3000 bytes)");
    drop(pool.take(3001));
    assert_eq!(format!("{pool:?}"), "Pool(1 buffers, 2500 of 3000 bytes)", "one over the bound drives nothing out");
    drop(Pool::new(0).take(10));
    assert_eq!(pool.take(0).room(), 0);
}

#[test]
fn no_payload_is_shown_in_logs() {
    let mut buffer = Pool::new(0).take(100);
    buffer.fill(3).copy_from_slice(b"abc");
    assert_eq!(format!("{buffer:?}"), "Buffer(3 of 100 bytes)");
}
