//! The ceiling: a blocking writer and a blocking reader over loopback.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use shared::telemetry::Usage;

use super::{Options, Sample, median, sample};

/// Bytes of one `write` and one `read`.
const BUFFER: usize = 128 << 10;

pub(super) fn measure(options: &Options) -> io::Result<Sample> {
    let count = (options.volume.0 / options.image_size.0).max(1);
    let (took, cpu) = throughput(options.image_size.as_usize(), count)?;
    let delivery = latency(options.latency_size.as_usize(), options.latency_images)?;
    Ok(sample(count * options.image_size.0, took, cpu, delivery))
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (theirs, _) = listener.accept()?;
    ours.set_nodelay(true)?;
    theirs.set_nodelay(true)?;
    Ok((ours, theirs))
}

fn write_image(stream: &mut TcpStream, image: &[u8]) -> io::Result<()> {
    image
        .chunks(BUFFER)
        .try_for_each(|piece| stream.write_all(piece))
}

/// Reads until `size` bytes have come; `false` at the end of the stream.
fn read_image(stream: &mut TcpStream, buffer: &mut [u8], size: usize) -> io::Result<bool> {
    let mut left = size;
    while left > 0 {
        let wanted = left.min(buffer.len());
        let read = stream.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Ok(false);
        }
        left -= read;
    }
    Ok(true)
}

/// As the transports do: every image is answered, but the writer does not wait for the answers.
fn throughput(size: usize, count: u64) -> io::Result<(Duration, Duration)> {
    let (mut ours, mut theirs) = pair()?;
    let image = vec![7; size];
    let usage = Usage::now();
    let start = Instant::now();
    let reader = thread::spawn(move || -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        for _ in 0..count {
            read_image(&mut theirs, &mut buffer, size)?;
        }
        theirs.write_all(&[1])
    });
    for _ in 0..count {
        write_image(&mut ours, &image)?;
    }
    ours.read_exact(&mut [0])?;
    let took = start.elapsed();
    let cpu = Usage::now().cpu.saturating_sub(usage.cpu);
    reader
        .join()
        .map_err(|_| io::Error::other("the reader panicked"))??;
    Ok((took, cpu))
}

/// One image, answered by one byte, then the next.
fn latency(size: usize, count: usize) -> io::Result<Duration> {
    let (mut ours, mut theirs) = pair()?;
    let image = vec![7; size];
    let reader = thread::spawn(move || -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        while read_image(&mut theirs, &mut buffer, size)? {
            theirs.write_all(&[1])?;
        }
        Ok(())
    });
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        write_image(&mut ours, &image)?;
        ours.read_exact(&mut [0])?;
        times.push(start.elapsed());
    }
    drop(ours);
    reader
        .join()
        .map_err(|_| io::Error::other("the reader panicked"))??;
    Ok(median(times))
}
