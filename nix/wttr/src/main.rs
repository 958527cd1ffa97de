//! `wttr [PLACE]`: the weather that wttr.in reports for PLACE, or for where the request comes from.

use std::env;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use openssl::ssl::{SslConnector, SslMethod};

const HOST: &str = "wttr.in";

fn main() -> Result<(), Box<dyn Error>> {
    let place = env::args().nth(1).unwrap_or_default();
    let connector = SslConnector::builder(SslMethod::tls())?.build();
    let mut connection = connector.connect(HOST, TcpStream::connect((HOST, 443))?)?;
    connection.write_all(request(&place).as_bytes())?;

    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    io::stdout().write_all(body(&answer))?;
    Ok(())
}

/// HTTP 1.0, so that the server sends the answer in one piece and then closes the connection.
fn request(place: &str) -> String {
    format!(
        "GET /{}?0 HTTP/1.0\r\nHost: {HOST}\r\nUser-Agent: curl\r\nConnection: close\r\n\r\n",
        percent_encoded(place)
    )
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b',' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// What follows the header of an HTTP answer.
fn body(answer: &[u8]) -> &[u8] {
    const END_OF_HEADER: &[u8] = b"\r\n\r\n";
    answer
        .windows(END_OF_HEADER.len())
        .position(|window| window == END_OF_HEADER)
        .map_or(answer, |start| &answer[start + END_OF_HEADER.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_what_a_url_cannot_hold() {
        assert_eq!(percent_encoded("São Paulo"), "S%C3%A3o%20Paulo");
    }

    #[test]
    fn finds_the_body() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nsunny\n"), b"sunny\n");
    }
}
