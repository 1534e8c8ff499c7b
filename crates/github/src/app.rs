//! The GitHub App as an identity: its key, and the JWT by which it asks for installation tokens.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use steadfast_core::time::Timestamp;

use crate::settings::UnusableSettings;

/// GitHub's advice against clocks that are ahead of its own.
const ISSUED_BEFORE: Duration = Duration::from_secs(60);
/// With the minute before, just the ten minutes that GitHub allows.
const LIVES: Duration = Duration::from_secs(9 * 60);

/// An App that can sign.
pub(crate) struct App {
    id: String,
    key: EncodingKey,
}

#[derive(Serialize)]
struct Claims<'a> {
    iat: i64,
    exp: i64,
    iss: &'a str,
}

impl App {
    pub(crate) fn new(id: &str, private_key: &SecretString) -> Result<Self, UnusableSettings> {
        // Environment variables often carry the line ends of a PEM file as `\n`, two characters.
        let pem = SecretString::from(private_key.expose_secret().trim().replace("\\n", "\n"));
        let key = EncodingKey::from_rsa_pem(pem.expose_secret().as_bytes())
            .map_err(|error| UnusableSettings::PrivateKey(error.to_string()))?;
        let app = App { id: id.to_owned(), key };
        // A key that is RSA and yet cannot sign, too short say, is found at start, not at a job.
        app.jwt(Timestamp::EPOCH).map_err(UnusableSettings::PrivateKey)?;
        Ok(app)
    }

    /// A token for the App itself; `now` is GitHub's time as far as we know it.
    pub(crate) fn jwt(&self, now: Timestamp) -> Result<SecretString, String> {
        let claims = Claims { iat: (now - ISSUED_BEFORE).secs(), exp: (now + LIVES).secs(), iss: &self.id };
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.key)
            .map(SecretString::from)
            .map_err(|error| error.to_string())
    }
}
