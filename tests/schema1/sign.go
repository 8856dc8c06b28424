// Signs schema 1 manifests with docker's own libtrust, which shares nothing with what reads them here.
//
// Debian has it: apt-get install golang-go golang-github-docker-libtrust-dev, and then
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run tests/schema1/sign.go tests/schema1/signed
package main

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/libtrust"
)

type layer struct {
	BlobSum string `json:"blobSum"`
}

type history struct {
	V1Compatibility string `json:"v1Compatibility"`
}

type manifest struct {
	SchemaVersion int       `json:"schemaVersion"`
	Name          string    `json:"name"`
	Tag           string    `json:"tag"`
	Architecture  string    `json:"architecture"`
	FSLayers      []layer   `json:"fsLayers"`
	History       []history `json:"history"`
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// The layers are the texts "layer 1" and "layer 0".
func payload() []byte {
	m := manifest{SchemaVersion: 1, Name: "library/hello", Tag: "1.0", Architecture: "amd64"}
	for _, n := range []int{1, 0} {
		sum := sha256.Sum256([]byte(fmt.Sprintf("layer %d", n)))
		m.FSLayers = append(m.FSLayers, layer{fmt.Sprintf("sha256:%x", sum)})
		m.History = append(m.History, history{fmt.Sprintf(`{"id":"%064d","created":"2014-04-07T02:45:5%dZ"}`, n, n)})
	}
	return must(json.MarshalIndent(m, "", "   "))
}

func encode(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

// A signature by another hash than the one that libtrust's documents always have.
func signBy(key libtrust.PrivateKey, hash crypto.Hash) []byte {
	content := payload()
	protected := encode(must(json.Marshal(map[string]any{
		"formatLength": len(content) - 2, "formatTail": encode(content[len(content)-2:]), "time": time.Now().UTC().Format(time.RFC3339),
	})))
	signature, alg, err := key.Sign(bytes.NewReader([]byte(protected+"."+encode(content))), hash)
	if err != nil {
		panic(err)
	}
	block := must(json.Marshal(map[string]any{
		"header":    map[string]any{"jwk": key.PublicKey(), "alg": alg},
		"signature": encode(signature), "protected": protected,
	}))
	return must(must(libtrust.NewJSONSignature(content, block)).PrettySignature("signatures"))
}

func main() {
	write := func(name string, document []byte) {
		if err := os.WriteFile(filepath.Join(os.Args[1], name+".json"), document, 0o644); err != nil {
			panic(err)
		}
	}
	p256 := must(libtrust.GenerateECP256PrivateKey())
	p384 := must(libtrust.GenerateECP384PrivateKey())
	p521 := must(libtrust.GenerateECP521PrivateKey())
	rsa := must(libtrust.GenerateRSA2048PrivateKey())
	signed := func(sign func(*libtrust.JSONSignature)) []byte {
		js := must(libtrust.NewJSONSignature(payload()))
		sign(js)
		return must(js.PrettySignature("signatures"))
	}
	by := func(keys ...libtrust.PrivateKey) []byte {
		return signed(func(js *libtrust.JSONSignature) {
			for _, key := range keys {
				if err := js.Sign(key); err != nil {
					panic(err)
				}
			}
		})
	}
	byChain := func(key libtrust.PrivateKey) []byte {
		return signed(func(js *libtrust.JSONSignature) {
			cert := must(libtrust.GenerateSelfSignedServerCert(key, []string{"registry.example"}, nil))
			if err := js.SignWithChain(key, []*x509.Certificate{cert}); err != nil {
				panic(err)
			}
		})
	}
	write("es256", by(p256))
	write("es384", by(p384))
	write("es512", by(p521))
	write("rs256", by(rsa))
	write("rs384", signBy(rsa, crypto.SHA384))
	write("rs512", signBy(rsa, crypto.SHA512))
	write("chain-es256", byChain(p256))
	write("chain-es384", byChain(p384))
	write("chain-es512", byChain(p521))
	write("chain-rs256", byChain(rsa))
	write("two", by(p256, rsa))
	write("payload", payload())
}
