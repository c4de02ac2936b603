//! What every milena client shares.
