//! What goes into a log comes out of it, in order, as far as it was kept.

use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tw_agent::log::{FRAME_BYTES_MAX, LogLimits, LogReader, LogWriter, Stream, StreamBuffer, tail};

fn streams() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

/// What tasks print: now and then a lot.
fn output() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..200),
        1 => (any::<u8>(), 1..3 * FRAME_BYTES_MAX).prop_map(|(byte, count)| vec![byte; count]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_log_gives_back_what_each_stream_wrote(writes in prop::collection::vec((streams(), output()), 0..40)) {
        let folder = tempfile::tempdir()?;
        let mut writer = LogWriter::create(folder.path(), LogLimits::default()).unwrap();
        let mut reader = LogReader::open(folder.path());
        let mut read = [Vec::new(), Vec::new()];
        let mut written = [Vec::new(), Vec::new()];
        let mut buffers = [StreamBuffer::new(Stream::Stdout), StreamBuffer::new(Stream::Stderr)];
        for (at, (stream, data)) in writes.iter().enumerate() {
            buffers[*stream as usize].push(data, at as i64, &mut writer);
            written[*stream as usize].extend_from_slice(data);
            // Read while it is written.
            while let Some(frame) = reader.next_frame().unwrap() {
                read[frame.stream as usize].extend(frame.data);
            }
        }
        buffers.iter_mut().for_each(|buffer| buffer.flush(&mut writer));
        while let Some(frame) = reader.next_frame().unwrap() {
            prop_assert!(frame.data.len() <= FRAME_BYTES_MAX);
            read[frame.stream as usize].extend(frame.data);
        }
        prop_assert!(read == written);
        prop_assert_eq!(reader.frames_missed(), 0);
        prop_assert_eq!(writer.counts().bytes, written.iter().map(|text| text.len() as u64).sum::<u64>());
    }

    #[test]
    fn a_log_stays_within_its_size_and_keeps_the_newest(
        writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000), 1..120),
    ) {
        let limits = LogLimits {
            bytes_max: 40_000,
            ..LogLimits::default()
        };
        let folder = tempfile::tempdir()?;
        let mut writer = LogWriter::create(folder.path(), limits).unwrap();
        for data in &writes {
            writer.write(Stream::Stdout, 0, data);
            let size: u64 = fs::read_dir(folder.path())?.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
            prop_assert!(size <= limits.bytes_max);
        }
        let mut reader = LogReader::open(folder.path());
        let mut kept = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            kept.push(frame.data);
        }
        prop_assert!(writes.ends_with(&kept) && !kept.is_empty());
        prop_assert_eq!(reader.frames_missed() as usize, writes.len() - kept.len());
        prop_assert_eq!(writer.counts().bytes_dropped, 0);
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines(
        writes in prop::collection::vec("[a-c\n]{0,12}", 0..20),
        count in 1_usize..8,
    ) {
        let folder = tempfile::tempdir()?;
        let mut writer = LogWriter::create(folder.path(), LogLimits::default()).unwrap();
        writes.iter().for_each(|text| writer.write(Stream::Stderr, 0, text.as_bytes()));
        let whole = writes.concat();
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        let expected = lines[lines.len().saturating_sub(count)..].concat();
        let (frames, mut reader) = tail(folder.path(), count, None).unwrap();
        let found: Vec<u8> = frames.into_iter().flat_map(|frame| frame.data).collect();
        prop_assert_eq!(String::from_utf8_lossy(&found).into_owned(), expected);
        prop_assert_eq!(reader.next_frame().unwrap(), None);
        writer.write(Stream::Stdout, 7, b"after");
        prop_assert_eq!(reader.next_frame().unwrap().map(|frame| frame.timestamp_us), Some(7));
    }
}

#[test]
fn half_a_frame_at_the_end_is_not_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::create(folder.path(), LogLimits::default()).unwrap();
    writer.write(Stream::Stdout, 1, b"whole");
    writer.write(Stream::Stdout, 2, b"torn");
    let segment = folder.path().join("0000000000.zst");
    let whole = fs::read(&segment).unwrap();
    for length in [whole.len() - 1, whole.len() / 2 + 3] {
        fs::write(&segment, &whole[..length]).unwrap();
        let mut reader = LogReader::open(folder.path());
        assert_eq!(reader.next_frame().unwrap().unwrap().data, b"whole");
        assert_eq!(reader.next_frame().unwrap(), None);
        fs::write(&segment, &whole).unwrap();
        assert_eq!(reader.next_frame().unwrap().unwrap().data, b"torn");
    }
}

#[test]
fn a_damaged_frame_is_an_error_that_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::create(folder.path(), LogLimits::default()).unwrap();
    writer.write(
        Stream::Stdout,
        1,
        b"some text that is long enough to be compressed, compressed, compressed",
    );
    let segment = folder.path().join("0000000000.zst");
    let mut bytes = fs::read(&segment).unwrap();
    let last = bytes.len() - 6;
    bytes[last] ^= 0xff;
    fs::write(&segment, bytes).unwrap();
    let error = LogReader::open(folder.path()).next_frame().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("0000000000.zst is damaged at byte 0"),
        "{error}"
    );
}

#[test]
fn a_full_disk_drops_and_counts() {
    let folder = tempfile::tempdir().unwrap();
    let segment = folder.path().join("0000000000.zst");
    let mut writer = LogWriter::create(folder.path(), LogLimits::default()).unwrap();
    symlink("/dev/full", &segment).unwrap();
    writer.write(Stream::Stdout, 1, b"lost");
    let counts = writer.counts();
    assert_eq!(
        (counts.bytes, counts.bytes_dropped, counts.frames),
        (0, 4, 0)
    );
}

#[test]
fn a_log_without_a_folder_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        LogReader::open(&folder.path().join("none"))
            .next_frame()
            .unwrap(),
        None
    );
}

/// One line a second from 1,000 s on, in segments of about five lines.
fn a_line_a_second(folder: &std::path::Path, limits: LogLimits) -> LogWriter {
    let mut writer = LogWriter::create(folder, limits).unwrap();
    for second in 1000..1200_i64 {
        let noise: Vec<u8> = (0..700_i64)
            .map(|n| (n * n * (second + n) % 251) as u8)
            .collect();
        writer.write(Stream::Stdout, second * 1_000_000, &noise);
    }
    writer
}

#[test]
fn a_range_begins_at_its_segment_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let writer = a_line_a_second(
        folder.path(),
        LogLimits {
            bytes_max: 4 << 20,
            ..LogLimits::default()
        },
    );
    assert_eq!(writer.counts().frames, 200);
    for since in [0, 1000, 1001, 1100, 1199, 5000] {
        let mut reader = LogReader::open_since(folder.path(), since * 1_000_000).unwrap();
        reader.skip_until(since * 1_000_000).unwrap();
        let mut seen = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            seen.push(frame.timestamp_us / 1_000_000);
        }
        let wanted: Vec<i64> = (since.max(1000)..1200).collect();
        assert!(seen.ends_with(&wanted), "since {since}: {seen:?}");
        assert!(seen.len() <= wanted.len() + 3, "since {since}: {seen:?}");
    }
}

#[test]
fn what_is_older_than_it_may_be_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let writer = a_line_a_second(
        folder.path(),
        LogLimits {
            age_ms_max: 40_000,
            ..LogLimits::default()
        },
    );
    assert!(
        writer.counts().segments_dropped > 20,
        "{:?}",
        writer.counts()
    );
    let first = LogReader::open(folder.path())
        .next_frame()
        .unwrap()
        .unwrap();
    let age_s = 1199 - first.timestamp_us / 1_000_000;
    assert!((40..=47).contains(&age_s), "{age_s} s");
}
