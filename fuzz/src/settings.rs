//! Settings of both daemons, from arguments, environment and `.env` file, and the units in them.
//!
//! An input is text in lines: `VARIABLE=value` for the environment, `.VARIABLE=value` for the file,
//! anything else is an argument.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStringExt;

use shared::settings::units::{
    Bandwidth, ByteSize, Dimensions, Rate, format_duration, parse_duration,
};
use tempfile::NamedTempFile;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut arguments = vec![OsString::from("program")];
    let mut environment = BTreeMap::new();
    let mut dotenv = Vec::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(text) = std::str::from_utf8(line) {
            check_units(text);
        }
        // What names a file would be read.
        if contains(line, b"config") || contains(line, b"CONFIG") || contains(line, b"_FILE") {
            continue;
        }
        let text = String::from_utf8_lossy(line).into_owned();
        match (line.first(), text.split_once('=')) {
            (Some(b'.'), _) => {
                dotenv.extend_from_slice(&line[1..]);
                dotenv.push(b'\n');
            }
            (Some(b'A'..=b'Z'), Some((name, value))) => {
                environment.insert(name.to_owned(), value.to_owned());
            }
            _ => arguments.push(OsString::from_vec(line.to_vec())),
        }
    }
    with_file(&dotenv, |path| {
        let given = || arguments.clone().into_iter();
        let read = [
            pantelegraph_transmitter::cli::parse(given(), &environment, Some(path)).err(),
            pantelegraph_receiver::cli::parse(given(), &environment, Some(path)).err(),
        ];
        for error in read.into_iter().flatten() {
            assert!(!error.to_string().trim().is_empty());
            assert!(error.mistakes().all(|mistake| !mistake.is_empty()));
        }
    });
}

fn contains(line: &[u8], word: &[u8]) -> bool {
    line.windows(word.len()).any(|window| window == word)
}

/// What was understood is understood again when it is written down.
fn check_units(text: &str) {
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size), "{text:?}");
    }
    if let Ok(duration) = parse_duration(text) {
        let again = format_duration(duration);
        assert_eq!(parse_duration(&again), Ok(duration), "{text:?}: {again}");
    }
    if let Ok(dimensions) = text.parse::<Dimensions>() {
        assert_eq!(dimensions.to_string().parse(), Ok(dimensions), "{text:?}");
    }
    if let Ok(rate) = text.parse::<Rate>() {
        assert!(rate.to_string().parse::<Rate>().is_ok(), "{text:?}");
    }
    if let Ok(bandwidth) = text.parse::<Bandwidth>() {
        let again = bandwidth.to_string().parse::<Bandwidth>();
        assert_eq!(again, Ok(bandwidth), "{text:?}");
    }
}

/// A file with these bytes, the same one each time.
fn with_file(bytes: &[u8], read: impl FnOnce(&std::path::Path)) {
    thread_local! {
        static FILE: RefCell<Option<NamedTempFile>> = const { RefCell::new(None) };
    }
    FILE.with_borrow_mut(|file| {
        let file = file.get_or_insert_with(|| NamedTempFile::new().expect("a place for files"));
        file.as_file().set_len(0).expect("its own file");
        file.rewind().expect("its own file");
        file.write_all(bytes).expect("space");
        read(file.path());
    });
}

/// Settings that are right, and a few that are not.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let transmitter = "--folder\n/pictures\n--to\nhttp://station.example:8080\n--transport\n\
                       websocket,grpc\n--bandwidth\n2Mbit/s\n--bandwidth-schedule\n\
                       08:00-18:00=500kbit/s,22:00-04:00=unlimited\n--outbox-limit=2GiB\n\
                       --when-full=thin:3\nTRANSMITTER_WINDOW=8MiB\n.TRANSMITTER_RETRY_MAX=30s";
    let receiver = "--data\n/data\n--http-listen=127.0.0.1:0\n--durability\nsynced\n\
                    RECEIVER_MAX_MEMORY=64MiB\n.RECEIVER_PARTIAL_TTL=24h\n.# comment\n\
                    .export RECEIVER_NAME=\"a b\"\nRECEIVER_CREDIT=1.5MiB";
    let units = "1.5GiB\n64k\n250ms\n1h30m\n5/s\n1920x1080\n500kbit/s\n2MB/s\n18446744073709551615\n\
                 99999999999999999999\n-1\n0\n1e9\n∞";
    let wrong = "--no-such-flag\n--rate=0/s\n--chunk-size\n0\n.=\n.A\n=\n--\n-";
    let asked = "--help";
    let printed = "--print-env";
    [
        ("seed-transmitter", transmitter),
        ("seed-receiver", receiver),
        ("seed-units", units),
        ("seed-wrong", wrong),
        ("seed-help", asked),
        ("seed-print", printed),
    ]
    .map(|(name, text)| (name, text.as_bytes().to_vec()))
    .into()
}
