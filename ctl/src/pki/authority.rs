//! The certificate authorities.

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use shared::documents::{Authority, AuthorityName};
use shared::secret::SecretText;

use super::{AUTHORITY_LIFE, BACKDATE, PkiError, making};

/// Makes an authority. `generation` counts those of this name from 1: each has a name of its own, so that nobody who
/// looks an issuer up by its name finds another.
///
/// # Errors
/// What rcgen said, or a time that no certificate can hold.
pub fn new_authority(
    environment: &str,
    name: AuthorityName,
    generation: u32,
    now: Timestamp,
) -> Result<Authority, PkiError> {
    let common_name = format!("{environment} {name} CA {generation}");
    let what = || format!("the authority {common_name}");
    let key = KeyPair::generate().map_err(making(what()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common(&common_name);
    params.serial_number = Some(serial());
    // No authority below: what one issues are leaves.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now - BACKDATE, now + AUTHORITY_LIFE)?;
    let certificate = params.self_signed(&key).map_err(making(what()))?.pem();
    Ok(Authority {
        name: common_name,
        certificate,
        key: SecretText::new(key.serialize_pem()),
    })
}

/// The generation that follows those of `used`, an authority with its successor or predecessor. One counts up for ever,
/// so no name is used twice.
pub fn next_generation<'a>(used: impl Iterator<Item = &'a Authority>) -> u32 {
    let number = |a: &Authority| a.name.rsplit(' ').next()?.parse::<u32>().ok();
    used.filter_map(number).max().unwrap_or(0).saturating_add(1)
}

/// What signs with an authority's key, under its name.
pub(super) fn issuer(authority: &Authority) -> Result<Issuer<'static, KeyPair>, PkiError> {
    let key = KeyPair::from_pem(authority.key.expose())
        .map_err(|_| PkiError::Key(authority.name.clone()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common(&authority.name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(Issuer::new(params, key))
}

fn common(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// 127 random bits: positive, and of an even length in DER.
pub(super) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from_slice(&bytes)
}

/// Sets from when to when a certificate is valid, in whole seconds.
pub(super) fn set_validity(
    params: &mut CertificateParams,
    from: Timestamp,
    to: Timestamp,
) -> Result<(), PkiError> {
    let since_epoch = |at: Timestamp| {
        let seconds = u64::try_from(at.as_second()).map_err(|_| PkiError::Time(at))?;
        Ok(std::time::Duration::from_secs(seconds))
    };
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(from)?;
    params.not_after = epoch + since_epoch(to)?;
    Ok(())
}
