"""Microcontrollers, memories, sensors and radio modules of the sample collection."""

from __future__ import annotations

from typing import Final

from parts.sample.catalog import (
    DIP_8,
    DIP_28,
    LGA_8,
    LQFP_48,
    QFN_56,
    SOIC_8,
    SOIC_16W,
    SURFACE,
    THROUGH,
    TO_92,
    TQFP_32,
    TQFP_44,
    TSSOP_20,
    Family,
    Item,
    Package,
    Shape,
    Sheet,
    names,
)

_MICROCHIP: Final = "https://www.microchip.com/en-us/product/{code}"
_ST: Final = "https://www.st.com/en/search.html#q={code}"
_ANALOG: Final = "https://www.analog.com/en/search.html?q={code}"

_WROOM: Final = Package("Module, 38 pads", Shape.MODULE, 38, 1.27, 25.5, 18.0, 3.1, SURFACE)
_BREAKOUT: Final = Package("Breakout, 8 pins", Shape.MODULE, 8, 2.54, 22.0, 18.0, 4.0, THROUGH)

_MEGA_DIP: Final = names(
    "PC6/RESET PD0/RXD PD1/TXD PD2 PD3 PD4 VCC GND PB6/XTAL1 PB7/XTAL2 PD5 PD6 PD7 PB0 PB1 "
    "PB2/SS PB3/MOSI PB4/MISO PB5/SCK AVCC AREF GND PC0 PC1 PC2 PC3 PC4/SDA PC5/SCL"
)
_STM32_48: Final = names(
    "VBAT PC13 PC14 PC15 OSC_IN OSC_OUT NRST VSSA VDDA PA0 PA1 PA2 PA3 PA4 PA5 PA6 PA7 PB0 "
    "PB1 PB2 PB10 PB11 VSS VDD PB12 PB13 PB14 PB15 PA8 PA9 PA10 PA11 PA12 PA13 VSS VDD PA14 "
    "PA15 PB3 PB4 PB5 PB6 PB7 BOOT0 PB8 PB9 VSS VDD"
)
_RP2040: Final = (
    *("IOVDD", *(f"GPIO{n}" for n in range(8)), "IOVDD", *(f"GPIO{n}" for n in range(8, 16))),
    *names("TESTEN XIN XOUT IOVDD DVDD SWCLK SWD RUN"),
    *(f"GPIO{n}" for n in range(16, 22)),
    *("IOVDD", *(f"GPIO{n}" for n in range(22, 26)), *(f"GPIO{n}/ADC" for n in range(26, 30))),
    *names("IOVDD ADC_AVDD VREG_VIN VREG_VOUT USB_DM USB_DP USB_VDD IOVDD DVDD"),
    *names("QSPI_SD3 QSPI_SCLK QSPI_SD0 QSPI_SD2 QSPI_SD1 QSPI_SS"),
)
_ESP32: Final = names(
    "GND 3V3 EN SENSOR_VP SENSOR_VN IO34 IO35 IO32 IO33 IO25 IO26 IO27 IO14 IO12 GND IO13 "
    "NC NC NC NC NC NC IO15 IO2 IO0 IO4 IO16 IO17 IO5 IO18 IO19 NC IO21 RXD0 TXD0 IO22 IO23 "
    "GND"
)


def _controller(
    code: str, what: str, package: Package, volts: str, marking: tuple[str, ...]
) -> Item:
    return Item(
        code=code,
        description=f"Microcontroller {what}, {package.name}",
        package=package,
        marking=marking,
        input_voltage=volts,
        tags=("breadboard",) if package.mounting == THROUGH else ("smd",),
    )


def _chip(
    code: str, what: str, package: Package, volts: str, marking: tuple[str, ...], *tags: str
) -> Item:
    return Item(code, what, package, marking, input_voltage=volts, tags=tags)


CIRCUITS: Final = (
    Family(
        type="Microcontroller",
        manufacturer="Microchip",
        series="ATmega328P",
        summary="8-bit AVR microcontrollers with 32 KB flash",
        page=_MICROCHIP,
        sheet=Sheet.CIRCUIT,
        share=2,
        features=(
            "Up to 20 MIPS at 20 MHz",
            "2 KB SRAM, 1 KB EEPROM",
            "10-bit ADC, USART, SPI, two-wire interface",
            "Power-down current 0.1 µA",
        ),
        pins=_MEGA_DIP,
        tags=("digital", "avr"),
        items=(
            _controller(
                *("ATMEGA328P-PU", "8-bit AVR 20 MHz 32 KB", DIP_28, "1.8 V – 5.5 V"),
                ("MICROCHIP", "ATMEGA328P-PU", "2134 U"),
            ),
            _controller(
                *("ATMEGA328P-AU", "8-bit AVR 20 MHz 32 KB", TQFP_32, "1.8 V – 5.5 V"),
                ("MICROCHIP", "MEGA328P", "AU 2207"),
            ),
            _controller(
                *("ATMEGA168PA-AU", "8-bit AVR 20 MHz 16 KB", TQFP_32, "1.8 V – 5.5 V"),
                ("MICROCHIP", "MEGA168PA", "AU 2119"),
            ),
            _controller(
                *("ATMEGA644PA-AU", "8-bit AVR 20 MHz 64 KB", TQFP_44, "1.8 V – 5.5 V"),
                ("MICROCHIP", "MEGA644PA", "AU 2051"),
            ),
        ),
    ),
    Family(
        type="Microcontroller",
        manufacturer="Microchip",
        series="ATtiny25/45/85",
        summary="8-bit AVR microcontrollers in eight pins",
        page=_MICROCHIP,
        sheet=Sheet.CIRCUIT,
        share=2,
        features=("Internal 8 MHz oscillator", "Universal serial interface", "Four ADC channels"),
        pins=("PB5/RESET", "PB3", "PB4", "GND", "PB0/MOSI", "PB1/MISO", "PB2/SCK", "VCC"),
        tags=("digital", "avr"),
        items=tuple(
            _controller(
                *(f"ATTINY{size}-20{suffix}", f"8-bit AVR 20 MHz {size[0]} KB", package),
                *("2.7 V – 5.5 V", (f"ATTINY{size}", f"20{suffix}", "2219")),
            )
            for size in ("25", "45", "85")
            for suffix, package in (("PU", DIP_8), ("SU", SOIC_8))
        ),
    ),
    Family(
        type="Microcontroller",
        manufacturer="STMicroelectronics",
        series="STM32F103x8/xB",
        summary="32-bit Arm Cortex-M3 microcontrollers, 72 MHz",
        page=_ST,
        sheet=Sheet.CIRCUIT,
        share=2,
        features=(
            "72 MHz, 1.25 DMIPS/MHz",
            "64 or 128 KB flash, 20 KB SRAM",
            "USB, CAN, two 12-bit ADCs, seven timers",
            "Sleep, stop and standby modes",
        ),
        pins=_STM32_48,
        tags=("digital", "arm"),
        items=tuple(
            _controller(
                *(f"STM32F{number}T6", f"Arm {core}", LQFP_48, "2.0 V – 3.6 V"),
                (f"STM32F{number[:3]}", f"{number[3:]}T6", "GQ22L 93", "CHN 217"),
            )
            for number, core in (
                ("103C8", "Cortex-M3 72 MHz 64 KB"),
                ("103CB", "Cortex-M3 72 MHz 128 KB"),
                ("072CB", "Cortex-M0 48 MHz 128 KB"),
                ("303CC", "Cortex-M4F 72 MHz 256 KB"),
                ("411CE", "Cortex-M4F 100 MHz 512 KB"),
            )
        ),
    ),
    Family(
        type="Microcontroller",
        manufacturer="STMicroelectronics",
        series="STM32G031",
        summary="32-bit Arm Cortex-M0+ value line, 64 MHz",
        page=_ST,
        sheet=Sheet.CIRCUIT,
        share=1,
        features=("64 MHz, 8 KB SRAM", "12-bit ADC at 2.5 Msps", "Two USARTs, two SPIs, two I2Cs"),
        pins=names(
            "PB7/PB8 PC14/PB9 PC15 VDD VSS NRST PA0 PA1 PA2 PA3 PA4 PA5 PA6 PA7 PB0 PA11 PA12 PA13 "
            "PA14 PB3"
        ),
        tags=("digital", "arm"),
        items=tuple(
            _controller(
                *(f"STM32G031F{size}P6", f"Arm Cortex-M0+ 64 MHz {flash} KB", TSSOP_20),
                *("1.7 V – 3.6 V", (f"G031F{size}P6", "PHL 214")),
            )
            for size, flash in (("4", 16), ("6", 32), ("8", 64))
        ),
    ),
    Family(
        type="Microcontroller",
        manufacturer="Raspberry Pi",
        series="RP2040",
        summary="Dual-core Arm Cortex-M0+ with programmable I/O",
        page="https://www.raspberrypi.com/products/rp2040/?q={code}",
        sheet=Sheet.CIRCUIT,
        share=1,
        features=("Two cores at 133 MHz", "264 KB SRAM in six banks", "Eight PIO state machines"),
        pins=_RP2040,
        tags=("digital", "arm", "usb"),
        items=(
            _controller(
                *("SC0914(7)", "RP2040 dual Cortex-M0+ 133 MHz", QFN_56, "1.8 V – 3.3 V"),
                ("RP2-B2", "21/43", "P640M83.00"),
            ),
        ),
    ),
    Family(
        type="Radio module",
        manufacturer="Espressif",
        series="ESP32-WROOM-32E",
        summary="Wi-Fi and Bluetooth modules with PCB antenna",
        page="https://www.espressif.com/en/products/modules?q={code}",
        sheet=Sheet.CIRCUIT,
        share=2,
        features=("802.11 b/g/n, Bluetooth 4.2", "Dual-core 240 MHz", "4, 8 or 16 MB flash"),
        pins=_ESP32,
        tags=("digital", "wifi", "smd"),
        items=tuple(
            _chip(
                f"ESP32-WROOM-32E-N{flash}",
                f"Wi-Fi and Bluetooth module, {flash} MB flash",
                _WROOM,
                "3.0 V – 3.6 V",
                ("ESP32-WROOM-32E", "ESPRESSIF"),
            )
            for flash in (4, 8, 16)
        ),
    ),
    Family(
        type="Sensor",
        manufacturer="Bosch Sensortec",
        series="BME280 / BMP280",
        summary="Pressure, humidity and temperature sensors",
        page="https://www.bosch-sensortec.com/search/?q={code}",
        sheet=Sheet.CIRCUIT,
        share=2,
        features=("300 hPa to 1100 hPa", "I2C up to 3.4 MHz, SPI up to 10 MHz", "3.6 µA at 1 Hz"),
        pins=("GND", "CSB", "SDI", "SCK", "SDO", "VDDIO", "GND", "VDD"),
        tags=("i2c", "environment"),
        items=(
            _chip("BME280", "Humidity and pressure sensor", LGA_8, "1.71 V – 3.6 V", ("0P", "UP")),
            _chip("BMP280", "Pressure sensor", LGA_8, "1.71 V – 3.6 V", ("3K", "UP")),
            _chip(
                *("GY-BME280-3.3", "Humidity and pressure breakout board", _BREAKOUT, "3.3 V"),
                *(("BME/BMP280", "3.3V"), "breadboard"),
            ),
        ),
    ),
    Family(
        type="Sensor",
        manufacturer="Analog Devices",
        series="DS18B20 / TMP36",
        summary="Temperature sensors in TO-92",
        page=_ANALOG,
        sheet=Sheet.CIRCUIT,
        share=2,
        features=("±0.5 °C to ±2 °C accuracy", "-55 °C to +125 °C", "No calibration needed"),
        pins=("GND", "DQ", "VDD"),
        tags=("environment", "leaded"),
        items=(
            _chip("DS18B20+", "1-Wire thermometer", TO_92, "3 V – 5.5 V", ("DS18B20",), "1-wire"),
            _chip("TMP36GT9Z", "Analog thermometer", TO_92, "2.7 V – 5.5 V", ("TMP36",), "analog"),
        ),
    ),
    Family(
        type="Memory",
        manufacturer="Microchip",
        series="24LC serial EEPROM",
        summary="I2C serial EEPROMs",
        page=_MICROCHIP,
        sheet=Sheet.CIRCUIT,
        share=2,
        features=("400 kHz at 2.5 V", "More than a million erase cycles", "Retention 200 years"),
        pins=("A0", "A1", "A2", "VSS", "SDA", "SCL", "WP", "VCC"),
        tags=("digital", "i2c"),
        items=tuple(
            _chip(
                *(f"24LC{size}-I/{suffix}", f"EEPROM {size} Kbit I2C, {package.name}", package),
                *("2.5 V – 5.5 V", (f"24LC{size}", f"I/{suffix} 2207")),
            )
            for size in ("02", "16", "64", "128", "256", "512")
            for suffix, package in (("P", DIP_8), ("SN", SOIC_8))
        ),
    ),
    Family(
        type="Real-time clock",
        manufacturer="Analog Devices",
        series="DS3231",
        summary="Extremely accurate I2C real-time clock with crystal",
        page=_ANALOG,
        sheet=Sheet.CIRCUIT,
        share=1,
        features=("±2 ppm from 0 °C to +40 °C", "Battery backup", "Two alarms, 32 kHz output"),
        pins=("32kHz", "VCC", "INT/SQW", "RST", *["NC"] * 8, "GND", "VBAT", "SDA", "SCL"),
        tags=("timing", "i2c", "smd"),
        items=(
            _chip("DS3231SN#", "Real-time clock", SOIC_16W, "2.3 V – 5.5 V", ("DS3231", "SN")),
            _chip("DS3231S#", "Real-time clock", SOIC_16W, "2.3 V – 5.5 V", ("DS3231", "S 2151")),
        ),
    ),
)
