//! The keys that sign tokens: ECDSA over P-256 (ES256), several at once.
//!
//! The first key signs; all of them verify. So a key is rotated by putting a new one in front, and forgotten when the
//! last token that it signed has expired ([`crate::rotation`]).
//!
//! Invariant: a token is verified by the key that its header names and by no other algorithm than ES256, whatever the
//! header says. Specifications: RFC 7515 (JWS), 7517 (JWK), 7518 (ES256), 7638 (thumbprint).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// The PEM tag of a private key in PKCS#8.
const TAG: &str = "PRIVATE KEY";
/// No token of ours comes near this.
const MOST_BYTES: usize = 16 * 1024;

/// What is wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not PEM.
    #[error(
        "cannot read the token keys as PEM; restore the file, or remove it to have new keys made (old tokens then end)"
    )]
    Pem(#[source] pem::PemError),
    /// A block that holds something else.
    #[error("token key {0} is no ECDSA P-256 key in PKCS#8 ({TAG})")]
    Kind(usize),
    /// Nothing.
    #[error("there is no token key")]
    None,
    /// The system gave no randomness.
    #[error("cannot make a token key: the system has no random numbers to give")]
    Random,
}

/// What is wrong with a signed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not signed by this server")]
pub struct NotOurs;

struct Key {
    pair: EcdsaKeyPair,
    id: String,
}

/// Keys, the one that signs first.
pub struct Keyring {
    keys: Vec<Key>,
    random: SystemRandom,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names only; a key pair shows its secret to nobody.
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

/// A new private key in PEM, for a file that only this server may read.
pub fn generate() -> Result<String, KeyError> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let document = document.map_err(|_| KeyError::Random)?;
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    Ok(pem::encode_config(&pem::Pem::new(TAG, document.as_ref()), config))
}

impl Keyring {
    /// The keys in PEM, as [`generate`] and [`crate::rotation::settled`] write them.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let blocks = pem::parse_many(text).map_err(KeyError::Pem)?;
        let keys = blocks.iter().enumerate().map(|(at, block)| {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, block.contents(), &random);
            let pair = pair.ok().filter(|_| block.tag() == TAG).ok_or(KeyError::Kind(at + 1))?;
            let id = thumbprint(&pair);
            Ok(Key { pair, id })
        });
        let keys = keys.collect::<Result<Vec<Key>, KeyError>>()?;
        if keys.is_empty() { Err(KeyError::None) } else { Ok(Self { keys, random }) }
    }

    /// `payload` as a signed token in the compact form.
    pub fn sign(&self, payload: &[u8]) -> Result<String, KeyError> {
        let key = self.keys.first().ok_or(KeyError::None)?;
        let header = json!({"alg": "ES256", "kid": key.id}).to_string();
        let mut token = BASE64.encode(header);
        token.push('.');
        BASE64.encode_string(payload, &mut token);
        let signature = key.pair.sign(&self.random, token.as_bytes()).map_err(|_| KeyError::Random)?;
        token.push('.');
        BASE64.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The payload of a token that one of the keys has signed.
    pub fn verify(&self, token: &str) -> Result<Vec<u8>, NotOurs> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
            kid: String,
            /// Extensions that must be understood: none is.
            crit: Option<Value>,
        }
        if token.len() > MOST_BYTES {
            return Err(NotOurs);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(NotOurs)?;
        let (header, payload) = signed.split_once('.').ok_or(NotOurs)?;
        let decode = |text: &str| BASE64.decode(text).map_err(|_| NotOurs);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| NotOurs)?;
        if header.alg != "ES256" || header.crit.is_some() {
            return Err(NotOurs);
        }
        let key = self.keys.iter().find(|key| key.id == header.kid).ok_or(NotOurs)?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.pair.public_key());
        public.verify(signed.as_bytes(), &decode(signature)?).map_err(|_| NotOurs)?;
        decode(payload)
    }

    /// The public keys as a JSON Web Key Set, for who verifies tokens elsewhere.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .map(|key| {
                let (x, y) = coordinates(&key.pair);
                json!({"use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256", "x": x, "y": y})
            })
            .collect();
        json!({ "keys": keys })
    }
}

/// The public point, which ring gives as 4, x, y.
fn coordinates(pair: &EcdsaKeyPair) -> (String, String) {
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at((point.len() - 1) / 2);
    (BASE64.encode(x), BASE64.encode(y))
}

fn thumbprint(pair: &EcdsaKeyPair) -> String {
    let (x, y) = coordinates(pair);
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    BASE64.encode(ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Keyring {
        Keyring::from_pem(&generate().unwrap()).unwrap()
    }

    fn encoded(text: &str) -> String {
        BASE64.encode(text)
    }

    #[test]
    fn what_was_signed_is_verified_and_comes_back() {
        let keys = ring();
        let token = keys.sign(b"{\"a\":1}").unwrap();
        assert_eq!(keys.verify(&token).unwrap(), b"{\"a\":1}");
    }

    #[test]
    fn nothing_but_an_own_signature_by_the_named_key_is_accepted() {
        let keys = ring();
        let token = keys.sign(b"{}").unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let (header, payload, signature) = (parts[0], parts[1], parts[2]);
        let kid = keys.jwks()["keys"][0]["kid"].as_str().unwrap().to_owned();
        let head = |alg: &str| encoded(&json!({"alg": alg, "kid": kid}).to_string());
        let critical = encoded(&json!({"alg": "ES256", "kid": kid, "crit": ["x"]}).to_string());
        // An attacker's guess: the public key as the secret of HMAC.
        let point = keys.keys[0].pair.public_key().as_ref();
        let hmac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, point);
        let confused = format!("{}.{payload}", head("HS256"));
        let tag = BASE64.encode(ring::hmac::sign(&hmac, confused.as_bytes()));
        let stranger = ring().sign(b"{}").unwrap();
        let stranger: Vec<&str> = stranger.split('.').collect();
        let rows = [
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            "...".to_owned(),
            format!("{header}.{payload}"),
            format!("{header}.{payload}."),
            format!("{header}.{}.{signature}", encoded("{\"admin\":true}")),
            format!("{}.{payload}.", head("none")),
            format!("{}.{payload}.{signature}", head("none")),
            format!("{}.{payload}.{signature}", head("None")),
            format!("{}.{payload}.{signature}", head("ES384")),
            format!("{}.{payload}.{signature}", head("RS256")),
            format!("{confused}.{tag}"),
            format!("{critical}.{payload}.{signature}"),
            format!("{}.{payload}.{signature}", encoded("{\"alg\":\"ES256\"}")),
            format!("{}.{payload}.{signature}", encoded("{\"alg\":\"ES256\",\"kid\":\"other\"}")),
            format!("{header}.{payload}.{}", stranger[2]),
            format!("{}.{}.{}", stranger[0], stranger[1], stranger[2]),
            format!("{header}.{payload}.{}", BASE64.encode([0_u8; 64])),
            format!("{header}.{payload}.{signature}="),
            format!("{token} "),
            format!("{token}.{token}"),
            "a".repeat(MOST_BYTES + 1),
        ];
        for row in rows {
            assert_eq!(keys.verify(&row), Err(NotOurs), "{row}");
        }
    }

    #[test]
    fn a_key_file_that_is_none_says_so() {
        assert!(matches!(Keyring::from_pem(""), Err(KeyError::None)));
        let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(Keyring::from_pem(other), Err(KeyError::Kind(1))));
        assert!(Keyring::from_pem("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n").is_err());
    }

    #[test]
    fn a_keyring_shows_no_secret() {
        let shown = format!("{:?}", ring());
        assert!(shown.len() < 60 && shown.starts_with("[\""), "{shown}");
    }
}
