//! `bootstrap.servers`: a comma-separated list of `host:port`.

use crate::{Error, ErrorKind};

/// Reads the list.
///
/// # Errors
/// A sentence that names the entry and says how it should look.
pub(crate) fn parse(servers: &str) -> Result<Vec<(String, u16)>, Error> {
    let servers: Vec<_> = servers
        .split(',')
        .map(str::trim)
        .filter(|server| !server.is_empty())
        .map(parse_one)
        .collect::<Result<_, _>>()?;
    if servers.is_empty() {
        return Err(Error::new(
            ErrorKind::Config,
            "bootstrap.servers is empty: give at least one broker, such as 127.0.0.1:9092.",
        ));
    }
    Ok(servers)
}

fn parse_one(server: &str) -> Result<(String, u16), Error> {
    let fail = |what: &str| {
        Error::new(
            ErrorKind::Config,
            format!("bootstrap.servers: {server:?} {what}; write host:port, such as 127.0.0.1:9092."),
        )
    };
    if server.contains("://") && !server.starts_with("PLAINTEXT://") {
        return Err(fail("is a URL"));
    }
    let server = server.trim_start_matches("PLAINTEXT://");
    let (host, port) = server.rsplit_once(':').ok_or_else(|| fail("has no port"))?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(|| fail("has an unclosed bracket"))?,
        None if host.contains(':') => return Err(fail("is an IPv6 address without brackets: write [address]:port")),
        None => host,
    };
    if host.is_empty() {
        return Err(fail("has no host"));
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(fail("has no port between 1 and 65535")),
        Ok(port) => Ok((host.to_owned(), port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read() {
        let read = parse(" a:1 ,[::1]:9092,,PLAINTEXT://b:2").unwrap();
        assert_eq!(read, [("a".to_owned(), 1), ("::1".to_owned(), 9092), ("b".to_owned(), 2)]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (servers, said) in [
            ("", "is empty"),
            (" , ", "is empty"),
            ("localhost", "has no port"),
            ("a:0", "between 1 and 65535"),
            ("a:99999", "between 1 and 65535"),
            (":9092", "has no host"),
            ("::1:9092", "brackets"),
            ("[::1:9092", "unclosed bracket"),
            ("http://a:9092", "is a URL"),
        ] {
            let error = parse(servers).unwrap_err();
            assert!(error.to_string().contains(said), "{servers:?}: {error}");
        }
    }
}
