// The peer in Go: httputil.ReverseProxy with the client credentials of x/oauth2.
// Arguments: address to listen on, base URL, token URL, CA file, access log.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

type line struct {
	Time          time.Time `json:"time"`
	Method        string    `json:"method"`
	Path          string    `json:"path"`
	Status        int       `json:"status"`
	Duration      float64   `json:"duration"`
	RequestBytes  int64     `json:"request_bytes"`
	ResponseBytes int64     `json:"response_bytes"`
	CorrelationID string    `json:"correlation_id"`
}

// accessLog writes a line a request, through a buffer that is flushed once a second.
type accessLog struct {
	mutex   sync.Mutex
	buffer  *bufio.Writer
	encoder *json.Encoder
}

func openLog(name string) *accessLog {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	buffer := bufio.NewWriterSize(file, 64<<10)
	access := &accessLog{buffer: buffer, encoder: json.NewEncoder(buffer)}
	go func() {
		for range time.Tick(time.Second) {
			access.mutex.Lock()
			access.buffer.Flush()
			access.mutex.Unlock()
		}
	}()
	return access
}

func (access *accessLog) write(entry line) {
	access.mutex.Lock()
	defer access.mutex.Unlock()
	access.encoder.Encode(entry)
}

// counted remembers status and size; ReverseProxy flushes through it.
type counted struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (writer *counted) WriteHeader(status int) {
	writer.status = status
	writer.ResponseWriter.WriteHeader(status)
}

func (writer *counted) Write(data []byte) (int, error) {
	written, err := writer.ResponseWriter.Write(data)
	writer.bytes += int64(written)
	return written, err
}

func (writer *counted) Flush() {
	writer.ResponseWriter.(http.Flusher).Flush()
}

func (access *accessLog) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		began := time.Now()
		writer := &counted{ResponseWriter: response, status: http.StatusOK}
		next.ServeHTTP(writer, request)
		access.write(line{
			Time:          began,
			Method:        request.Method,
			Path:          request.URL.Path,
			Status:        writer.status,
			Duration:      time.Since(began).Seconds(),
			RequestBytes:  request.ContentLength,
			ResponseBytes: writer.bytes,
			CorrelationID: writer.Header().Get("Fumage-Correlation-Id"),
		})
	})
}

func transport(caFile string) *http.Transport {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	// Go keeps two idle connections to a host unless it is told otherwise.
	return &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool},
		MaxIdleConns:        1000,
		MaxIdleConnsPerHost: 1000,
		IdleConnTimeout:     75 * time.Second,
		DisableCompression:  true,
	}
}

func main() {
	listen, base, tokenURL, caFile, logFile := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	target, err := url.Parse(base)
	if err != nil {
		log.Fatal(err)
	}
	credentials := clientcredentials.Config{
		ClientID:     "bench",
		ClientSecret: "bench-secret",
		TokenURL:     tokenURL,
		AuthStyle:    oauth2.AuthStyleInParams,
	}
	proxy := &httputil.ReverseProxy{
		Director: func(request *http.Request) {
			request.URL.Scheme = target.Scheme
			request.URL.Host = target.Host
			request.Host = target.Host
		},
		Transport: &oauth2.Transport{
			Source: credentials.TokenSource(context.Background()),
			Base:   transport(caFile),
		},
	}
	server := &http.Server{Addr: listen, Handler: openLog(logFile).around(proxy)}
	log.Fatal(server.ListenAndServe())
}
