//! A node that does what a test says: one closure answers every request, in the order they come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// `POST /streams/x/events`
    pub(crate) line: String,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What is answered.
pub(crate) enum Answer {
    /// Status and JSON.
    Json(u16, &'static str),
    /// Status 200, this type and these bytes; then the connection is closed if `true`, else left open in silence.
    Bytes(&'static str, Vec<u8>, bool),
    /// Nothing: the connection is closed.
    Cut,
}

/// Starts the node; gives its URL.
pub(crate) async fn node(answer: impl FnMut(Asked) -> Answer + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(Mutex::new(answer));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while let Some(asked) = read(&mut socket, &mut buffer).await {
                    let reply = if asked.line == "GET /.well-known/flow" {
                        Answer::Json(200, r#"{"spec":"1.0","features":["producer","stream"]}"#)
                    } else {
                        (answer.lock().unwrap())(asked)
                    };
                    match reply {
                        Answer::Cut => return,
                        Answer::Json(status, text) => {
                            let head = format!(
                                "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nretry-after: 0\r\ncontent-length: {}\r\n\r\n{text}",
                                text.len()
                            );
                            socket.write_all(head.as_bytes()).await.unwrap();
                        }
                        Answer::Bytes(kind, bytes, end) => {
                            let head = format!(
                                "HTTP/1.1 200 x\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n"
                            );
                            socket.write_all(head.as_bytes()).await.unwrap();
                            socket.write_all(&bytes).await.unwrap();
                            if !end {
                                let _ = socket.read(&mut [0]).await;
                            }
                            return;
                        }
                    }
                }
            });
        }
    });
    url
}

async fn read(socket: &mut tokio::net::TcpStream, buffer: &mut Vec<u8>) -> Option<Asked> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let mut lines = head.split("\r\n");
            let line = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
            let headers: BTreeMap<_, _> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length = headers.get("content-length").map_or(0, |length| length.parse::<usize>().unwrap());
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Some(Asked { line, headers, body });
            }
        }
        let mut chunk = [0; 16384];
        match socket.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
        }
    }
}
