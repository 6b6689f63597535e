package keyfold

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
)

// authority issues certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true,
		BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour),
	}
	made, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(made)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key}
}

// issue returns a certificate for a name and its key, in PEM.
func (a *authority) issue(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
	}
	made, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &own.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// secured is a server whose trust a test can change, and that ends no connection by itself.
type secured struct {
	*fake
	trusted atomic.Pointer[x509.CertPool]
	own     atomic.Pointer[tls.Certificate]
	seen    atomic.Pointer[string]
}

func (s *secured) trust(one *authority) {
	pool := x509.NewCertPool()
	pool.AddCert(one.certificate)
	s.trusted.Store(pool)
}

func (s *secured) prove(t *testing.T, one *authority) {
	t.Helper()
	pair, err := tls.X509KeyPair(one.issue(t, "keyfold.example"))
	if err != nil {
		t.Fatal(err)
	}
	s.own.Store(&pair)
}

func serveSecured(t *testing.T) *secured {
	t.Helper()
	s := &secured{}
	s.fake = serve(t, credentials.NewTLS(&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{
			Certificates: []tls.Certificate{*s.own.Load()}, ClientCAs: s.trusted.Load(),
			ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"},
			VerifyConnection: func(state tls.ConnectionState) error {
				s.seen.Store(&state.PeerCertificates[0].Subject.CommonName)
				return nil
			},
		}, nil
	}}))
	return s
}

// Each new connection uses what the files hold by then: certificate, key and authorities. Half a
// rotation leaves the last ones in use.
func TestCertificatesAreReadAgain(t *testing.T) {
	old, renewed := newAuthority(t), newAuthority(t)
	server := serveSecured(t)
	server.trust(old)
	server.prove(t, old)
	folder := t.TempDir()
	files := TLS{
		CAFile: filepath.Join(folder, "ca"), CertFile: filepath.Join(folder, "cert"),
		KeyFile: filepath.Join(folder, "key"), ServerName: "keyfold.example",
	}
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificate, key := old.issue(t, "first")
	write(files.CAFile, old.pem())
	write(files.CertFile, certificate)
	write(files.KeyFile, key)
	secure, err := files.credentials()
	if err != nil {
		t.Fatal(err)
	}
	// Each client has a connection of its own, and all of them the same credentials.
	connect := func(want string) {
		t.Helper()
		client := server.open(t, Settings{TLS: &files})
		if err := ask(t, client); err != nil || *server.seen.Load() != want {
			t.Error(err, *server.seen.Load())
		}
	}
	connect("first")
	proves := func(want string) {
		t.Helper()
		config := secure.(*fileCredentials).config.current()
		leaf, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
		if err != nil || leaf.Subject.CommonName != want {
			t.Error(err, leaf.Subject.CommonName)
		}
	}
	proves("first")
	certificate, key = renewed.issue(t, "second")
	write(files.CertFile, certificate)
	proves("first") // The key is still the old one.
	write(files.KeyFile, key)
	proves("second")
	write(files.CAFile, renewed.pem())
	server.trust(renewed)
	server.prove(t, renewed)
	connect("second")
	write(files.CertFile, []byte("cut"))
	proves("second")
}

// A server that proves another name, or is of another authority, gets no call, and the error says why.
func TestStrangers(t *testing.T) {
	one, other := newAuthority(t), newAuthority(t)
	server := serveSecured(t)
	server.trust(one)
	server.prove(t, one)
	folder := t.TempDir()
	for name, content := range map[string][]byte{"one": one.pem(), "other": other.pem()} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for says, files := range map[string]TLS{
		"unknown authority": {CAFile: filepath.Join(folder, "other"), ServerName: "keyfold.example"},
		"not other.example": {CAFile: filepath.Join(folder, "one"), ServerName: "other.example"},
		// The server's word on a missing certificate comes after the handshake, or the connection's end
		// comes before it.
		"": {CAFile: filepath.Join(folder, "one"), ServerName: "keyfold.example"},
	} {
		err := ask(t, server.open(t, Settings{TLS: &files}))
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if server.calls() != 0 {
		t.Error("a stranger got a call")
	}
}
