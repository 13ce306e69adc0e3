use std::borrow::Cow;

/// An address as it may be shown: in a message, a log or a manifest.
///
/// User and password are left out, and a query or fragment becomes `?...`, because some put their key there. `address`
/// need not be a valid URL: it is what somebody wrote, and messages about mistyped addresses are where passwords leak.
/// Where it is not clear what belongs to the password, less is shown rather than more.
///
/// ```
/// # use opencharacter_core::without_credentials;
/// assert_eq!(without_credentials("https://me:p@ss@host/v1?key=secret"), "https://host/v1?...");
/// ```
pub fn without_credentials(address: &str) -> String {
    let (scheme, rest) = address.find("://").map_or(("", address), |end| address.split_at(end + 3));
    let place = without_user(rest);
    match place.find(['?', '#']) {
        Some(query) => format!("{scheme}{}?...", &place[..query]),
        None => format!("{scheme}{place}"),
    }
}

/// What follows user and password in an address without its scheme.
fn without_user(rest: &str) -> Cow<'_, str> {
    let place = rest.split(['?', '#']).next().unwrap_or("");
    if names_host(place) {
        return rest.into();
    }
    // Without an `@` before it, the `?` or `#` belongs to a mistyped password.
    let searched = if place.contains('@') { place } else { rest };
    match searched.rfind('@') {
        Some(at) => rest[at + 1..].into(),
        // No `@` and no port after the colon: the beginning of a password, cut off somewhere.
        None => format!("{}:...", rest.split(':').next().unwrap_or("")).into(),
    }
}

/// Whether a place begins with nothing but a host and perhaps a port.
fn names_host(place: &str) -> bool {
    let authority = place.split('/').next().unwrap_or("");
    // An IPv6 address has colons of its own.
    let after_host = match authority.rsplit_once(']') {
        Some((host, after)) if host.starts_with('[') => after,
        _ => authority,
    };
    let port = after_host.split_once(':').map_or("", |(_, port)| port);
    !authority.contains('@') && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_secret_is_shown() {
        for address in [
            "https://host/v1",
            "https://host:8443/v1",
            "http://[::1]:8000/v1",
            "nats://host:4222",
            "localhost:8000",
            "nonsense",
            "",
            "s3://bucket/mail@home/file",
        ] {
            assert_eq!(without_credentials(address), address);
        }
    }

    #[test]
    fn what_may_be_a_secret_is_not() {
        for (address, shown) in [
            ("https://me:secret@host/v1", "https://host/v1"),
            ("https://me:se@cret@host:8443/v1", "https://host:8443/v1"),
            ("tls://token@host", "tls://host"),
            ("me:secret@host", "host"),
            ("http://me:secret@[::1]:80/", "http://[::1]:80/"),
            ("https://host/v1?key=secret", "https://host/v1?..."),
            ("https://host/v1?mail=a@b", "https://host/v1?..."),
            ("https://me:secret@host/v1?mail=a@b#secret", "https://host/v1?..."),
            ("https://host/v1#secret", "https://host/v1?..."),
            // Passwords that should have been percent-encoded.
            ("https://me:se/cret@host/v1", "https://host/v1"),
            ("https://me:se?cr#et@host/v1", "https://host/v1"),
            ("https://me:se@c/r@host/v1", "https://host/v1"),
            ("nats://me:secret", "nats://me:..."),
        ] {
            assert_eq!(without_credentials(address), shown, "{address}");
        }
    }

    proptest! {
        /// Whatever the password is made of, as long as it does not read as a port and a path.
        #[test]
        fn no_password_is_shown(password in "[a-zA-Z0-9@/?#:%,.\\[\\]-]{0,12}", path in "[a-z/]{0,6}") {
            let address = format!("https://me:SECRET{password}@host/{path}?key=SECRET");
            let shown = without_credentials(&address);
            prop_assert!(!shown.contains("SECRET"), "{shown}");
        }
    }
}
