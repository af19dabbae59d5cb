// Go, as a first program would be: a goroutine for each connection, bufio. `pong PORT PROCESSES`.
//
// One process uses all the CPUs it is given; it is not preforked, and PROCESSES is 1.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
)

func serve(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewReader(conn)
	for {
		if _, err := lines.ReadSlice('\n'); err != nil {
			return
		}
		if _, err := conn.Write([]byte("+PONG\r\n")); err != nil {
			return
		}
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go serve(conn)
	}
}
