"""Makes the keys of this folder anew: python3 make.py, with ssh-keygen, openssl and Flower's Python package installed.

Each NAME.pem.expected is the public key of NAME as Flower itself derives it. No key of this folder is used for anything but tests.
"""
import pathlib
import subprocess

from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

here = pathlib.Path(__file__).parent
plain = s.NoEncryption()
secret = s.BestAvailableEncryption(b'secret')


def keygen(name, *options, passphrase=''):
    for old in (here / name, here / f'{name}.pub'):
        old.unlink(missing_ok=True)
    subprocess.run(['ssh-keygen', '-q', '-N', passphrase, '-C', 'a comment', '-f', here / name, *options], check=True)


def expect(name, key):
    (here / f'{name}.pem.expected').write_bytes(public_key_to_bytes(key.public_key()))


for bits in ('256', '384', '521'):
    name = f'ssh_keygen_p{bits}'
    keygen(name, '-t', 'ecdsa', '-b', bits)
    expect(name, s.load_ssh_private_key((here / name).read_bytes(), None))
for name, curve, form in (('python_openssh_p256', ec.SECP256R1(), s.PrivateFormat.OpenSSH), ('python_openssh_p384', ec.SECP384R1(), s.PrivateFormat.OpenSSH),
                          ('python_openssh_p521', ec.SECP521R1(), s.PrivateFormat.OpenSSH), ('python_pkcs8_p384', ec.SECP384R1(), s.PrivateFormat.PKCS8),
                          ('python_sec1_p521', ec.SECP521R1(), s.PrivateFormat.TraditionalOpenSSL)):
    key = ec.generate_private_key(curve)
    (here / name).write_bytes(key.private_bytes(s.Encoding.PEM, form, plain))
    (here / f'{name}.pub').write_bytes(key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH))
    expect(name, key)
# With its parameters before it, as `openssl ecparam -genkey` writes.
name = 'openssl_ecparam_p256'
subprocess.run(['openssl', 'ecparam', '-name', 'prime256v1', '-genkey', '-out', here / name], check=True)
expect(name, s.load_pem_private_key((here / name).read_bytes(), None))

keygen('refused_passphrase_openssh', '-t', 'ecdsa', '-b', '384', passphrase='secret')
keygen('refused_rsa_openssh', '-t', 'rsa', '-b', '2048')
keygen('refused_ed25519_openssh', '-t', 'ed25519')
ec_key = ec.generate_private_key(ec.SECP384R1())
for name, key, form, protection in (
        ('refused_passphrase_pkcs8', ec_key, s.PrivateFormat.PKCS8, secret),
        ('refused_passphrase_sec1', ec_key, s.PrivateFormat.TraditionalOpenSSL, secret),
        ('refused_rsa_pkcs8', rsa.generate_private_key(65537, 2048), s.PrivateFormat.PKCS8, plain),
        ('refused_ed25519_pkcs8', ed25519.Ed25519PrivateKey.generate(), s.PrivateFormat.PKCS8, plain),
        ('refused_secp256k1_pkcs8', ec.generate_private_key(ec.SECP256K1()), s.PrivateFormat.PKCS8, plain),
        ('refused_brainpool_pkcs8', ec.generate_private_key(ec.BrainpoolP256R1()), s.PrivateFormat.PKCS8, plain)):
    (here / name).write_bytes(key.private_bytes(s.Encoding.PEM, form, protection))
