//! Every codec: what is compressed is what is read, at every level and size; what other writers write is read; limits hold; what is
//! broken is refused with a sentence. (`lz4.rs` has what only LZ4 frames have.)
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::{Bytes, BytesMut};
use milena_protocol::records::*;
use support::{Rec, build, built, read_all, records_of, text};

const LIMIT: usize = 1 << 27;

#[test]
fn what_is_compressed_is_what_is_read_at_every_level_and_size() {
    let mut scratch = Scratch::new();
    for (codec, mut compressor) in everything() {
        for seed in support::seeds::seeds(1..41) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let count = 1 << rng.u32(0..11);
            let records = records_of(seed, rng.usize(1..=count));
            let (mut sealed, _) = build(&records, 12).compress(&mut compressor, Vec::new());
            sealed.stamp(ProducerStamp { producer_id: 5, epoch: 1, base_sequence: 9, transactional: false });
            let raw = split_batch(&mut Bytes::copy_from_slice(sealed.bytes())).unwrap().unwrap();
            raw.verify_crc().unwrap();
            assert_eq!((raw.producer_id(), raw.count()), (5, records.len() as u32));
            if records.len() > 50 {
                assert_eq!(raw.compression(), Ok(codec), "{} records", records.len());
                assert!(raw.len() < built(&records).len());
            }
            let batch = raw.open(&mut scratch, LIMIT).unwrap();
            assert!(
                read_all(&batch).unwrap() == records,
                "{codec}; replay: MILENA_SEEDS={seed} cargo test -p milena-protocol --test codecs what_is_compressed"
            );
        }
    }
    assert_eq!(scratch.pinned(), 0);
}

/// Simulations rest on it: the same records are the same bytes, whatever went through the same tables before.
#[test]
fn what_was_compressed_before_leaves_no_trace() {
    let batches: Vec<_> = (0..12).map(|seed| records_of(seed, 1 + (seed as usize * 331) % 900)).collect();
    for (codec, mut compressor) in everything() {
        let all = |compressor: &mut Compressor| -> Vec<Bytes> {
            batches.iter().map(|records| compressed_by(compressor, records)).collect()
        };
        let first = all(&mut compressor);
        assert!(all(&mut compressor) == first, "{codec}");
        // A thread of its own has tables of its own, which have seen nothing.
        let level = codec.levels().map(|levels| *levels.end());
        let fresh = |records: &Vec<Rec>| {
            let compressor = level.map(|level| Compressor::with_level(codec, level).unwrap());
            compressed_by(&mut compressor.unwrap_or_else(|| Compressor::new(codec).unwrap()), records)
        };
        let used: Vec<_> = batches.iter().rev().map(fresh).collect();
        let apart: Vec<_> = batches
            .iter()
            .rev()
            .map(|records| std::thread::scope(|scope| scope.spawn(|| fresh(records)).join().unwrap()))
            .collect();
        assert!(used == apart, "{codec}");
    }
}

#[test]
fn sizes_around_the_edges_of_blocks() {
    let mut scratch = Scratch::new();
    let value = text(1 << 18);
    for (codec, mut compressor) in everything() {
        for edge in [1 << 15, 1 << 16, 1 << 17, 1 << 18] {
            for around in 6..18 {
                let records = [Rec::new(1).value(&value[..edge - around])];
                let bytes = compressed_by(&mut compressor, &records);
                let raw = split_batch(&mut bytes.clone()).unwrap().unwrap();
                assert_eq!(raw.compression(), Ok(codec));
                let batch = raw.open(&mut scratch, LIMIT).unwrap();
                assert!(read_all(&batch).unwrap() == records, "{codec} {edge} - {around}");
            }
        }
    }
}

#[test]
fn a_batch_that_would_grow_stays_as_it_is() {
    let mut rng = fastrand::Rng::with_seed(1);
    for len in [10, 5_000, 100_000] {
        let noise: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
        for (_, mut compressor) in everything() {
            let records = [Rec::new(1).value(&noise)];
            assert_eq!(compressed_by(&mut compressor, &records), built(&records));
        }
    }
}

#[test]
fn a_higher_level_compresses_better() {
    let mut rng = fastrand::Rng::with_seed(3);
    let value: Vec<u8> = (0..60_000).map(|n| if rng.u8(..5) == 0 { rng.u8(..) } else { text(64)[n % 64] }).collect();
    let records = [Rec::new(1).value(&value)];
    for codec in codecs() {
        let Some(levels) = codec.levels() else { continue };
        let len = |level| compressed_by(&mut Compressor::with_level(codec, level).unwrap(), &records).len();
        assert!(len(*levels.end()) < len(*levels.start()), "{codec}");
        let default = if codec == Compression::Gzip { 6 } else { 1 };
        assert_eq!(len(default), compressed(&records, codec).len(), "{codec} without a level is level {default}");
    }
}

#[test]
fn levels_that_a_codec_does_not_have_are_refused_by_name() {
    let refused = |codec, level| Compression::check_level(codec, level).unwrap_err().to_string();
    for codec in [Compression::None, Compression::Snappy, Compression::Lz4] {
        assert!(refused(codec, 1).starts_with(&format!("{codec} has no compression levels")));
    }
    for level in [-1, 0, 10] {
        assert_eq!(
            refused(Compression::Gzip, level),
            format!("gzip has no compression level {level}: it must be 1 to 9")
        );
    }
    for level in [-7, 0, 4, 22] {
        assert_eq!(
            refused(Compression::Zstd, level),
            format!("zstd has no compression level {level}: it must be 1 to 3")
        );
    }
    for codec in codecs() {
        assert_eq!(Compressor::with_level(codec, 99).unwrap_err(), codec.check_level(99).unwrap_err());
    }
}

#[test]
fn a_codec_that_is_not_in_the_build_is_an_error_that_names_its_feature() {
    for (bits, codec) in (0..).zip(Compression::ALL) {
        if codec.supported().is_ok() {
            continue;
        }
        let error = Compressor::new(codec).unwrap_err().to_string();
        assert!(error.contains(&format!("feature `{codec}`")), "{error}");
        if let Some(levels) = codec.levels() {
            assert_eq!(Compressor::with_level(codec, *levels.end()).unwrap_err().to_string(), error);
        }
        let raw = split_batch(&mut with_records(&built(&records_of(9, 3)), bits, b"anything")).unwrap().unwrap();
        assert_eq!(raw.open(&mut Scratch::new(), LIMIT).unwrap_err().to_string(), error);
    }
}

#[test]
fn the_limit_is_exact() {
    for value in [vec![0; 500_000], text(200_000), vec![7; 100]] {
        let records = [Rec::new(1).value(&value)];
        let size = built(&records).len() - 61;
        for codec in codecs() {
            let raw = split_batch(&mut compressed(&records, codec)).unwrap().unwrap();
            assert_eq!(raw.compression(), Ok(codec));
            // A buffer that an earlier batch has made larger does not loosen the limit.
            for mut scratch in [Scratch::new(), large_scratch(codec)] {
                for short in [1, 100, size - 1] {
                    let limit = size.saturating_sub(short);
                    let refused = raw.clone().open(&mut scratch, limit).unwrap_err();
                    assert_eq!(refused, BatchError::TooLarge { base_offset: 0, limit }, "{codec} of {size} bytes");
                }
                let batch = raw.clone().open(&mut scratch, size).unwrap();
                assert!(read_all(&batch).unwrap() == records);
            }
        }
    }
}

#[test]
fn the_scratch_is_used_again_once_its_last_slice_is_gone() {
    for codec in codecs() {
        let bytes = compressed(&[Rec::new(1).value(&text(50_000))], codec);
        let open =
            |scratch: &mut Scratch| split_batch(&mut bytes.clone()).unwrap().unwrap().open(scratch, LIMIT).unwrap();
        let mut scratch = Scratch::new();
        let memory = open(&mut scratch).owner().as_ptr();
        let kept = open(&mut scratch);
        assert_eq!((kept.owner().as_ptr(), scratch.pinned()), (memory, 0));
        assert_ne!(open(&mut scratch).owner().as_ptr(), memory, "{codec}: somebody still reads the old memory");
    }
}

#[test]
fn a_batch_that_could_not_be_read_leaves_nothing_behind() {
    let records = [Rec::new(1).value(&text(50_000))];
    for codec in codecs() {
        let good = compressed(&records, codec);
        let mut scratch = Scratch::new();
        for cut in (62..good.len()).step_by(97) {
            let broken = with_records(&good, good[22], &good[61..cut]);
            assert!(open_all(broken, &mut scratch).is_err(), "{codec} cut at {cut}");
            assert!(open_all(good.clone(), &mut scratch).unwrap() == records);
        }
    }
}

#[test]
#[cfg(feature = "gzip")]
fn gzip_looks_as_java_writes_it_and_another_decoder_reads_it() {
    let records = [Rec::new(1).value(&text(200_000))];
    for level in 1..=9 {
        let bytes = compressed_by(&mut Compressor::with_level(Compression::Gzip, level).unwrap(), &records);
        assert_eq!(bytes[61..71], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
        let mut out = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[61..]), &mut out).unwrap();
        assert_eq!(out, built(&records)[61..]);
    }
}

#[test]
#[cfg(feature = "gzip")]
fn gzip_of_other_writers() {
    use std::io::Write as _;
    let records = [Rec::new(1).value(&text(100_000)), Rec::new(2).value(&[0; 50_000])];
    let plain = built(&records);
    let member = |bytes: &[u8], adorned: bool| {
        let mut builder = flate2::GzBuilder::new();
        if adorned {
            builder = builder.filename("name").comment("comment").extra(vec![1; 300]).mtime(1).operating_system(3);
        }
        let mut encoder = builder.write(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let whole = member(&plain[61..], false);
    for stream in [
        member(&plain[61..], true),
        // Members behind one another, an empty one among them.
        [member(&plain[61..5_000], false), member(&[], true), member(&plain[5_000..], true)].concat(),
        // Padding, as Java's reader has it.
        [&whole[..], &[0; 17]].concat(),
        [&whole[..], &[9; 100]].concat(),
    ] {
        assert!(open_all(with_records(&plain, 1, &stream), &mut Scratch::new()).unwrap() == records);
    }
    let patched = |at: usize, byte: u8| {
        let mut stream = whole.clone();
        stream[at] = byte;
        stream
    };
    let end = whole.len();
    for (stream, reason) in [
        (Vec::new(), "cut off"),
        (whole[..5].to_vec(), "cut off"),
        (whole[..end - 1].to_vec(), "cut off"),
        (whole[..end - 9].to_vec(), "cut off"),
        (patched(0, 0), "begin"),
        (patched(2, 9), "method"),
        (patched(3, 0x80), "flags"),
        (patched(3, 0x08), "broken"),
        (patched(10, 0x07), "deflate stream"),
        (patched(end - 8, whole[end - 8] ^ 1), "checksum"),
        (patched(end - 1, 1), "length"),
        ([&whole[..], &whole[..40]].concat(), "cut off"),
    ] {
        assert_refused(&plain, 1, &stream, reason);
    }
}

#[test]
#[cfg(feature = "snappy")]
fn snappy_is_framed_as_java_does_and_another_decoder_reads_its_blocks() {
    let records = [Rec::new(1).value(&text(100_000))];
    let plain = built(&records);
    let bytes = compressed(&records, Compression::Snappy);
    let mut rest = bytes[61..].strip_prefix(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01").unwrap();
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let (size, after) = rest.split_first_chunk::<4>().unwrap();
        let (block, after) = after.split_at(u32::from_be_bytes(*size) as usize);
        blocks.push(snap::raw::Decoder::new().decompress_vec(block).unwrap());
        rest = after;
    }
    assert_eq!(blocks.concat(), plain[61..]);
    let (last, whole) = blocks.split_last().unwrap();
    assert!(whole.iter().all(|block| block.len() == 32 * 1024) && last.len() <= 32 * 1024);
}

#[test]
#[cfg(feature = "snappy")]
fn snappy_of_other_writers() {
    let records = [Rec::new(1).value(&text(100_000)), Rec::new(2).value(&[0; 50_000])];
    let plain = built(&records);
    let raw = |bytes: &[u8]| snap::raw::Encoder::new().compress_vec(bytes).unwrap();
    let header = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
    let block = |bytes: &[u8]| [&(raw(bytes).len() as u32).to_be_bytes()[..], &raw(bytes)].concat();
    let whole = [&header[..], &block(&plain[61..])].concat();
    for stream in [
        // One block without framing, as librdkafka writes it.
        raw(&plain[61..]),
        whole.clone(),
        [&header[..], &block(&plain[61..90]), &block(&[]), &block(&plain[90..])].concat(),
        // A second stream behind the first.
        [&header[..], &block(&plain[61..90]), header, &block(&plain[90..])].concat(),
        // Too few bytes for a size, and a version that nobody knows.
        [&whole[..], b"ta"].concat(),
        [header, &b"\x82SNAPPY\0\0\0\0\x09\0\0\0\x01"[..], &block(&plain[61..])].concat(),
    ] {
        assert!(open_all(with_records(&plain, 2, &stream), &mut Scratch::new()).unwrap() == records);
    }
    let end = whole.len();
    for (stream, reason) in [
        (whole[..end - 1].to_vec(), "cut off"),
        (whole[..20].to_vec(), "cut off"),
        (whole[..12].to_vec(), "cut off"),
        ([&whole[..], b"tail"].concat(), "cut off"),
        ([&whole[..], &[0; 4]].concat(), "block is broken"),
        (Vec::new(), "block is broken"),
        (raw(&plain[61..])[..1_000].to_vec(), "block is broken"),
        (b"no snappy at all".to_vec(), "block is broken"),
        // 2 GiB by five bytes.
        (vec![0xff, 0xff, 0xff, 0xff, 0x07], "block is broken"),
    ] {
        assert_refused(&plain, 2, &stream, reason);
    }
}

#[test]
#[cfg(feature = "zstd")]
fn zstd_of_other_writers() {
    use std::io::Write as _;

    use structured_zstd::encoding::{CompressionLevel, FrameCompressor, StreamingEncoder, compress_slice_to_vec};
    let records = [Rec::new(1).value(&text(300_000)), Rec::new(2).value(&[0; 250_000])];
    let plain = built(&records);
    // Without the content size, as Java's streams are.
    let streamed = |bytes: &[u8], level: i32| {
        let mut encoder = StreamingEncoder::new(Vec::new(), CompressionLevel::from_level(level));
        bytes.chunks(1_000).for_each(|chunk| encoder.write_all(chunk).unwrap());
        encoder.finish().unwrap()
    };
    let sized = |bytes: &[u8], level: i32| compress_slice_to_vec(bytes, CompressionLevel::from_level(level));
    let mut checked = FrameCompressor::<&[u8]>::new(CompressionLevel::Default);
    checked.set_content_checksum(true);
    let checked = checked.compress_independent_frame(&plain[61..]);
    let skipped = [0x5c, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let whole = sized(&plain[61..], 3);
    for stream in [
        streamed(&plain[61..], 1),
        streamed(&plain[61..], 3),
        sized(&plain[61..], 22),
        sized(&plain[61..], -5),
        checked.clone(),
        [
            &skipped[..],
            &streamed(&plain[61..5_000], 3),
            &sized(&[], 3),
            &streamed(&[], 3),
            &sized(&plain[5_000..], 9),
            &skipped,
        ]
        .concat(),
        // What is cut off behind whole frames.
        [&whole[..], &whole[..100]].concat(),
        [&whole[..], &skipped[..10]].concat(),
    ] {
        assert!(open_all(with_records(&plain, 4, &stream), &mut Scratch::new()).unwrap() == records);
    }
    let patched = |stream: &[u8], at: usize, byte: u8| {
        let mut stream = stream.to_vec();
        stream[at] = byte;
        stream
    };
    let end = whole.len();
    for (stream, reason) in [
        (whole[..end - 1].to_vec(), "cut off"),
        (whole[..3].to_vec(), "cut off"),
        (whole[..7].to_vec(), "cut off"),
        (patched(&whole, 0, 0), "begin"),
        (patched(&whole, 4, whole[4] | 1), "dictionary"),
        // The content size: larger than the blocks, and smaller.
        (patched(&whole, 7, 0x7f), "announces more"),
        (patched(&whole, 6, whole[6] - 1), "broken"),
        (patched(&whole, end - 2, whole[end - 2] ^ 0x55), "longer than any"),
        (patched(&whole, 9, whole[9] | 6), "unknown kind"),
        (patched(&checked, checked.len() - 1, checked[checked.len() - 1] ^ 1), "checksum"),
        ([&whole[..], b"tail!"].concat(), "begin"),
        ([&whole[..], b"t"].concat(), "begin"),
    ] {
        assert_refused(&plain, 4, &stream, reason);
    }
}

/// The codecs of this build.
fn codecs() -> impl Iterator<Item = Compression> {
    Compression::ALL.into_iter().filter(|codec| *codec != Compression::None && codec.supported().is_ok())
}

/// Each of them at each of its levels.
fn everything() -> Vec<(Compression, Compressor)> {
    let mut all = Vec::new();
    for codec in codecs() {
        match codec.levels() {
            None => all.push((codec, Compressor::new(codec).unwrap())),
            Some(levels) => {
                all.extend(levels.map(|level| (codec, Compressor::with_level(codec, level).unwrap())));
            }
        }
    }
    all
}

fn compressed(records: &[Rec], codec: Compression) -> Bytes {
    compressed_by(&mut Compressor::new(codec).unwrap(), records)
}

fn compressed_by(compressor: &mut Compressor, records: &[Rec]) -> Bytes {
    let (mut sealed, _) = build(records, 0).compress(compressor, Vec::new());
    sealed.stamp(ProducerStamp::NONE);
    Bytes::copy_from_slice(sealed.bytes())
}

fn open_all(mut bytes: Bytes, scratch: &mut Scratch) -> Result<Vec<Rec>, BatchError> {
    read_all(&split_batch(&mut bytes)?.unwrap().open(scratch, LIMIT)?)
}

#[cfg_attr(not(any(feature = "gzip", feature = "snappy", feature = "zstd")), expect(dead_code, reason = "nobody asks"))]
fn assert_refused(of: &[u8], bits: u8, stream: &[u8], reason: &str) {
    let read = open_all(with_records(of, bits, stream), &mut Scratch::new());
    let Err(error) = read else { panic!("read what should be refused: {reason}") };
    assert!(
        matches!(error, BatchError::Decompress { .. }),
        "{error} is not about {reason}: {:02x?}",
        &stream[..stream.len().min(20)]
    );
    assert!(error.to_string().contains(reason), "{error} is not about {reason}");
}

/// The batch `of` with other compressed records. Its checksum no longer fits.
fn with_records(of: &[u8], bits: u8, records: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(&of[..61]);
    bytes.extend_from_slice(records);
    let length = bytes.len() as i32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] = bits;
    bytes.freeze()
}

fn large_scratch(codec: Compression) -> Scratch {
    let mut scratch = Scratch::new();
    open_all(compressed(&[Rec::new(1).value(&[1; 1_000_000])], codec), &mut scratch).unwrap();
    scratch
}
