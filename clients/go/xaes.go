package keyfold

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
)

const (
	xaesKeySize        = 32
	xaesNonceSize      = 24
	xaesPrefixSize     = 12
	xaesTagSize        = 16
	xaesCommitmentSize = 32
)

var (
	errKeySize    = errors.New("a key has 32 bytes")
	errCommitment = errors.New("the commitment does not match")
	errTag        = errors.New("the tag does not match")
)

// committingKey is a 256-bit key for KC-XAES-256-GCM: AES-256-GCM for random nonces without counting,
// committed to one key.
//
// Sources of every rule here: C2SP's XAES-256-GCM for the derived key and the ciphertext, and its
// key-committing variant (ePrint 2025/758) for the commitment. Under a key K and a nonce N of 24 bytes,
// with L = AES_K(0) and K1 = L doubled in GF(2^128):
//
//	Kx          AES_K(K1 ^ (00 01 'X' 00 ‖ N[:12])) ‖ AES_K(K1 ^ (00 02 'X' 00 ‖ N[:12]))
//	ciphertext  AES-256-GCM under Kx with nonce N[12:], tag of 16 bytes at the end
//	commitment  CMAC_K('XCMT' ‖ N ‖ 00 01 ‖ 00 01) ‖ CMAC_K('XCMT' ‖ N ‖ 00 01 ‖ 00 02)
//
// Each CMAC input fills its blocks, so CMAC's second subkey is never used.
type committingKey struct {
	block cipher.Block
	k1    [aes.BlockSize]byte
}

func newCommittingKey(key []byte) (*committingKey, error) {
	if len(key) != xaesKeySize {
		return nil, errKeySize
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	made := &committingKey{block: block}
	block.Encrypt(made.k1[:], made.k1[:])
	top := made.k1[0] >> 7
	for i := range made.k1 {
		made.k1[i] <<= 1
		if i+1 < len(made.k1) {
			made.k1[i] |= made.k1[i+1] >> 7
		}
	}
	// Reduced by a product, not by a branch, which would show a bit of L in the time taken.
	made.k1[len(made.k1)-1] ^= top * 0x87
	return made, nil
}

// derived returns AES-256-GCM under the key that a nonce derives.
func (k *committingKey) derived(nonce []byte) (cipher.AEAD, error) {
	var key [xaesKeySize]byte
	for half := range 2 {
		block := key[half*aes.BlockSize:][:aes.BlockSize]
		copy(block, []byte{0, byte(half + 1), 'X', 0})
		copy(block[4:], nonce[:xaesPrefixSize])
		subtle.XORBytes(block, block, k.k1[:])
		k.block.Encrypt(block, block)
	}
	block, err := aes.NewCipher(key[:])
	clear(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (k *committingKey) commitment(nonce []byte) []byte {
	var first [aes.BlockSize]byte
	copy(first[:], "XCMT")
	copy(first[4:], nonce[:xaesPrefixSize])
	k.block.Encrypt(first[:], first[:])
	made := make([]byte, xaesCommitmentSize)
	for half := range 2 {
		block := made[half*aes.BlockSize:][:aes.BlockSize]
		copy(block, nonce[xaesPrefixSize:])
		copy(block[12:], []byte{0, 1, 0, byte(half + 1)})
		subtle.XORBytes(block, block, first[:])
		subtle.XORBytes(block, block, k.k1[:])
		k.block.Encrypt(block, block)
	}
	return made
}

// seal appends ciphertext, tag and commitment to what it is given, 48 bytes more than the plaintext.
// The nonce has 24 random bytes that were never used with this key.
func (k *committingKey) seal(to, nonce, plaintext, aad []byte) ([]byte, error) {
	under, err := k.derived(nonce)
	if err != nil {
		return nil, err
	}
	return append(under.Seal(to, nonce[xaesPrefixSize:], plaintext, aad), k.commitment(nonce)...), nil
}

// open returns the plaintext of ciphertext and tag. It looks at the commitment first, so that nothing
// is opened under a key that did not seal it.
func (k *committingKey) open(nonce, sealed, commitment, aad []byte) ([]byte, error) {
	if subtle.ConstantTimeCompare(commitment, k.commitment(nonce)) != 1 {
		return nil, errCommitment
	}
	under, err := k.derived(nonce)
	if err != nil {
		return nil, err
	}
	plaintext, err := under.Open(nil, nonce[xaesPrefixSize:], sealed, aad)
	if err != nil {
		return nil, errTag
	}
	return plaintext, nil
}
