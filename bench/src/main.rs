//! temporary
#![allow(missing_docs, clippy::all, unused)]
mod path;
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let kib = |i: usize, d: u64| shared::settings::units::ByteSize::kib(a.get(i).and_then(|x| x.parse().ok()).unwrap_or(d));
    let o = path::Options { transports: shared::image::Transport::ALL.to_vec(), image_size: shared::settings::units::ByteSize(1_000_000),
      volume: shared::settings::units::ByteSize(2_000_000_000), rounds: 5, chunk_size: kib(1,256), window: kib(2,4096), connections: a.get(5).and_then(|x|x.parse().ok()).unwrap_or(1), http2_frame_size: kib(3,256), http2_window: kib(4,1024), latency_size: shared::settings::units::ByteSize(545_801), latency_images: 300 };
    let r = path::measure(&o, |_, _| {}).unwrap();
    for w in &r.ways { let g=|s: path::Spread| format!("{:.3}/{:.3}/{:.3}", s.min, s.median, s.max);
      println!("{:10} GB/s {} ratio {} cpu/GB {} ratio {} p50us {} ratio {}", w.name, g(path::PathReport::spread(w,|s| s.bytes_per_second/1e9)), g(r.ratio(w,|s|s.bytes_per_second)), g(path::PathReport::spread(w,|s|s.cpu_seconds_per_gb)), g(r.ratio(w,|s|s.cpu_seconds_per_gb)), g(path::PathReport::spread(w,|s|s.delivery_p50_ns as f64/1e3)), g(r.ratio(w,|s|s.delivery_p50_ns as f64))); }
}
