use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

/// A connection through the proxy: its client's end and its server's.
fn connect(proxy: &Proxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let address = listener.local_addr().unwrap();
    proxy.lead_to(Some((address, address)));
    let client = TcpStream::connect(proxy.http).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn a_clean_link_carries_every_byte_both_ways_and_each_end() {
    let (proxy, listener) = (Proxy::start().unwrap(), listener());
    let (mut client, mut server) = connect(&proxy, &listener);
    let sent: Vec<u8> = (0..300_000_u32).map(|byte| byte as u8).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        client.write_all(&copy).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        answer
    });
    let mut received = Vec::new();
    server.read_to_end(&mut received).unwrap();
    server.write_all(b"received").unwrap();
    drop(server);
    assert!(received == sent);
    assert_eq!(writer.join().unwrap(), b"received");
    assert_eq!(proxy.bytes_up(), 300_000);
}

#[test]
fn a_break_resets_what_is_open_and_not_what_comes_after() {
    let (proxy, listener) = (Proxy::start().unwrap(), listener());
    let (mut client, mut server) = connect(&proxy, &listener);
    client.write_all(b"a").unwrap();
    server.read_exact(&mut [0]).unwrap();
    proxy.break_all();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let (mut client, mut server) = connect(&proxy, &listener);
    client.write_all(b"b").unwrap();
    server.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_link_that_leads_nowhere_resets() {
    let proxy = Proxy::start().unwrap();
    let mut client = TcpStream::connect(proxy.grpc).unwrap();
    assert!(client.read(&mut [0]).is_err());
}

#[test]
fn faults_happen_where_they_lie_and_not_once_the_link_is_healed() {
    let (proxy, listener) = (Proxy::start().unwrap(), listener());
    for healed in [false, true] {
        proxy.spoil(Link::bad(1));
        // All connections of this link that flip a bit first, and how many bytes before.
        let link = Link::bad(1);
        let flips = (proxy.connections()..).find_map(|number| {
            let fate = link.fate(number);
            match (fate.up.first(), fate.late.is_zero()) {
                (Some((at, Fault::Flip(_))), true) if fate.up.len() == 1 => Some((number, *at)),
                _ => None,
            }
        });
        let (number, at) = flips.unwrap();
        proxy.heal();
        while proxy.connections() < number {
            drop(connect(&proxy, &listener));
        }
        proxy.spoil(link);
        let (mut client, mut server) = connect(&proxy, &listener);
        if healed {
            proxy.heal();
        }
        let length = usize::try_from(at).unwrap() + 10;
        let writer = std::thread::spawn(move || {
            client.write_all(&vec![0; length]).unwrap();
            client
        });
        let mut received = vec![0; length];
        server.read_exact(&mut received).unwrap();
        writer.join().unwrap();
        let ones: u32 = received.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(ones, u32::from(!healed));
    }
}
