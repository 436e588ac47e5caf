//! Any stream of frames, cut anywhere, is the same frames.

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;

fn any_frame() -> impl Strategy<Value = Parts> {
    let length = prop_oneof![4 => 0..200usize, 2 => 0..20_000usize, 1 => 100_000..400_000usize];
    (any::<u8>(), 1..100usize, length, any::<u8>())
        .prop_map(|(kind, header, body, seed)| (kind, pattern(header, seed.into()), pattern(body, seed.into())))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_of_a_stream_of_frames_yields_the_same_frames(
        frames in prop::collection::vec(any_frame(), 1..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, header, body)| frame(*kind, header, body)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let got = runtime.block_on(async {
            let (mut inbound, _, mut far) = reader(MIB).await;
            let write = async {
                for piece in cuts.windows(2) {
                    far.write_all(&bytes[piece[0]..piece[1]]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                drop(far);
            };
            let read = async {
                let mut got = Vec::new();
                while let Some(parts) = next(&mut inbound).await.unwrap() {
                    got.push(parts);
                }
                got
            };
            tokio::join!(write, read).1
        });
        prop_assert!(got == frames);
    }
}
