//! LZ4 batches: our frames are read by the reference decoder, its frames of every shape are read by us.
#![cfg(feature = "lz4")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};

use bytes::{Bytes, BytesMut};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use milena_protocol::records::*;
use support::{Rec, build, built, read_all, records_of, text};

const LIMIT: usize = 1 << 27;

#[test]
fn a_compressed_batch_gives_the_same_records() {
    let mut compressor = Compressor::new(Compression::Lz4).unwrap();
    let mut scratch = Scratch::new();
    for seed in 0..60 {
        let records = records_of(seed, 1 + seed as usize * 20);
        let (mut sealed, old) = build(&records, 12).compress(&mut compressor, Vec::new());
        assert!(!old.is_empty() || seed == 0, "one of the two buffers comes back");
        sealed.stamp(ProducerStamp { producer_id: 5, epoch: 1, base_sequence: 9, transactional: false });
        let raw = split_batch(&mut Bytes::copy_from_slice(sealed.bytes())).unwrap().unwrap();
        raw.verify_crc().unwrap();
        assert_eq!((raw.producer_id(), raw.count()), (5, records.len() as u32));
        if seed > 2 {
            assert_eq!(raw.compression(), Ok(Compression::Lz4), "{} records", records.len());
            assert!(raw.len() < built(&records).len());
        }
        let batch = raw.open(&mut scratch, LIMIT).unwrap();
        assert_eq!(read_all(&batch).unwrap(), records, "seed {seed}");
    }
}

#[test]
fn the_frame_is_the_one_java_writes_and_the_reference_decoder_reads_it() {
    for len in [100, 65_535, 65_536, 65_537, 200_000] {
        let records = [Rec::new(1).value(&text(len))];
        let plain = built(&records);
        let compressed = compressed(&records);
        assert_eq!(compressed[61..68], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
        let mut out = Vec::new();
        FrameDecoder::new(&compressed[61..]).read_to_end(&mut out).unwrap();
        assert_eq!(out, plain[61..]);
    }
}

#[test]
fn a_batch_that_would_grow_stays_as_it_is() {
    let mut rng = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = (0..100_000).map(|_| rng.u8(..)).collect();
    let bytes = compressed(&[Rec::new(1).value(&noise)]);
    let raw = split_batch(&mut bytes.clone()).unwrap().unwrap();
    assert_eq!(raw.compression(), Ok(Compression::None));
}

#[test]
fn a_block_that_would_grow_is_stored() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut value: Vec<u8> = (0..100_000).map(|_| rng.u8(..)).collect();
    value.extend(text(100_000));
    let records = [Rec::new(1).value(&value)];
    let bytes = compressed(&records);
    let batch = split_batch(&mut bytes.clone()).unwrap().unwrap().open(&mut Scratch::new(), LIMIT).unwrap();
    assert_eq!(read_all(&batch).unwrap(), records);
}

#[test]
fn frames_of_other_writers_are_read() {
    let records = [Rec::new(1).value(&text(300_000)), Rec::new(2).value(&[0; 50_000])];
    let plain = built(&records);
    let info = FrameInfo::new;
    for frame in [
        info().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB),
        info().block_mode(BlockMode::Linked).block_size(BlockSize::Max64KB),
        info().block_mode(BlockMode::Linked).block_size(BlockSize::Max256KB).block_checksums(true),
        info().block_size(BlockSize::Max4MB).content_checksum(true).content_size(Some(plain.len() as u64 - 61)),
    ] {
        let mut encoder = FrameEncoder::with_frame_info(frame, Vec::new());
        // Flushed in the middle, so that a linked block reaches back over a short one.
        encoder.write_all(&plain[61..70_000]).unwrap();
        encoder.flush().unwrap();
        encoder.write_all(&plain[70_000..]).unwrap();
        let batch = with_records(&plain, &encoder.finish().unwrap());
        let batch = split_batch(&mut batch.clone()).unwrap().unwrap().open(&mut Scratch::new(), LIMIT).unwrap();
        assert_eq!(read_all(&batch).unwrap(), records);
    }
}

#[test]
fn the_limit_holds() {
    let records = [Rec::new(1).value(&[0; 500_000])];
    let bytes = compressed(&records);
    assert!(bytes.len() < 10_000);
    let size = built(&records).len() - 61;
    let raw = split_batch(&mut bytes.clone()).unwrap().unwrap();
    // A buffer that an earlier batch has made larger does not loosen the limit.
    for mut scratch in [Scratch::new(), large_scratch()] {
        assert_eq!(
            raw.clone().open(&mut scratch, size - 1).unwrap_err(),
            BatchError::TooLarge { base_offset: 0, limit: size - 1 }
        );
        assert!(raw.clone().open(&mut scratch, size).is_ok());
    }
    // The same for a block that is stored as it is.
    let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
    frame.extend_from_slice(&(50_000u32 | 1 << 31).to_le_bytes());
    frame.extend_from_slice(&[7; 50_000]);
    frame.extend_from_slice(&[0; 4]);
    let stored = split_batch(&mut with_records(&bytes, &frame)).unwrap().unwrap();
    for mut scratch in [Scratch::new(), large_scratch()] {
        let refused = stored.clone().open(&mut scratch, 49_999).unwrap_err();
        assert_eq!(refused, BatchError::TooLarge { base_offset: 0, limit: 49_999 });
        assert!(stored.clone().open(&mut scratch, 50_000).is_ok());
    }
}

#[test]
fn broken_frames_are_refused_with_a_sentence() {
    let records = records_of(1, 100);
    let good = compressed(&records);
    let frame = &good[61..];
    let patched = |at: usize, byte: u8| {
        let mut frame = frame.to_vec();
        frame[at] = byte;
        frame
    };
    for (frame, reason) in [
        (frame[..frame.len() - 1].to_vec(), "cut off"),
        (frame[..3].to_vec(), "cut off"),
        (patched(0, 5), "begin"),
        (patched(4, 0x20), "version"),
        (patched(4, 0x61), "dictionary"),
        (patched(5, 0x30), "block size"),
        (patched(8, 0xff), "cut off"),
    ] {
        let batch = with_records(&good, &frame);
        let raw = split_batch(&mut batch.clone()).unwrap().unwrap();
        let error = raw.open(&mut Scratch::new(), LIMIT).unwrap_err();
        assert!(matches!(error, BatchError::Decompress { codec: "lz4", .. }));
        assert!(error.to_string().contains(reason), "{error} is not about {reason}");
    }
}

#[test]
fn what_stands_behind_the_frame_is_ignored_as_java_does() {
    let records = records_of(1, 100);
    let good = compressed(&records);
    for tail in [b"tail", &good[61..], &good[61..80], &[0; 30]] {
        let batch = with_records(&good, &[&good[61..], tail].concat());
        let batch = split_batch(&mut batch.clone()).unwrap().unwrap().open(&mut Scratch::new(), LIMIT).unwrap();
        assert_eq!(read_all(&batch).unwrap(), records);
    }
}

#[test]
fn the_scratch_is_used_again_once_its_last_slice_is_gone() {
    let records = [Rec::new(1).value(&text(50_000))];
    let open = |scratch: &mut Scratch| {
        split_batch(&mut compressed(&records).clone()).unwrap().unwrap().open(scratch, LIMIT).unwrap()
    };
    let mut scratch = Scratch::new();
    let first = open(&mut scratch);
    let memory = first.owner().as_ptr();
    let kept = first.owner().slice(10..20);
    drop(first);
    let second = open(&mut scratch);
    assert_ne!(second.owner().as_ptr(), memory, "somebody still reads the old memory");
    assert_eq!(scratch.pinned(), scratch.capacity() as u64);
    let memory = second.owner().as_ptr();
    drop((kept, second));
    assert_eq!(open(&mut scratch).owner().as_ptr(), memory);
    assert_eq!(scratch.pinned(), scratch.capacity() as u64);
}

fn compressed(records: &[Rec]) -> Bytes {
    let mut compressor = Compressor::new(Compression::Lz4).unwrap();
    let (mut sealed, _) = build(records, 0).compress(&mut compressor, Vec::new());
    sealed.stamp(ProducerStamp::NONE);
    Bytes::copy_from_slice(sealed.bytes())
}

/// The batch `of` with other compressed records. Its checksum no longer fits.
fn with_records(of: &[u8], records: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(&of[..61]);
    bytes.extend_from_slice(records);
    let length = bytes.len() as i32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] = 3;
    bytes.freeze()
}

fn large_scratch() -> Scratch {
    let mut scratch = Scratch::new();
    let bytes = compressed(&[Rec::new(1).value(&[1; 1_000_000])]);
    split_batch(&mut bytes.clone()).unwrap().unwrap().open(&mut scratch, LIMIT).unwrap();
    scratch
}
